"""What users are told of their mistakes."""

import pytest

from saerepgeo_lib.errors import UserError


def refused(message, call, *given, **options):
    """The call is refused with a message in which the pattern is found."""
    with pytest.raises(UserError, match=message):
        call(*given, **options)
