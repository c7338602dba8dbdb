"""What every page with a model does first: load what its parameters name."""

from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs, load
from saerepgeo_lib.companion.records import Record


def page_model(record: Record) -> ModelWithSAEs:
    """The model and SAEs that a page's parameters name, loaded to the record's device.

    The record gets the stage "load", and a description among its numbers. Raises UserError as
    `load` does.
    """
    names = ("model_name", "hook", "dtype")
    given = {name: record.parameters[name] for name in names if name in record.parameters}
    with record.stage("load"):
        model = load(record.parameters["preset"], **given, device=record.device)
    record.numbers["model"] = model.describe()
    return model
