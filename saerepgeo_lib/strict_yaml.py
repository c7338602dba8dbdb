"""YAML as users expect it: no key twice, no aliases, no dates, and 1e-3 is a number."""

import re
from typing import Any

import yaml

from saerepgeo_lib.errors import UserError

_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """Plain values only: null, true, 1, 1e-3, text, lists and mappings."""

    yaml_constructors = {
        f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
        for kind in _KINDS
    } | {None: yaml.SafeLoader.construct_undefined}

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] in _KINDS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As SafeLoader, without aliases: a small file could stand for an endless value."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "write the value out: no aliases", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader, and a key that occurs twice is an error (YAML would keep the last)."""
        seen = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # else refused below
        for key_node, _ in pairs:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a text; quote it", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")  # a text to YAML 1.1
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; a UserError with line and reason if it has none."""
    try:
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader: plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise UserError(f"not the YAML expected here: {where}{error.problem}") from None
    except RecursionError:
        raise UserError("not the YAML expected here: nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:  # characters, huge numbers, tags
        raise UserError(f"not the YAML expected here: {error}".splitlines()[0]) from None
