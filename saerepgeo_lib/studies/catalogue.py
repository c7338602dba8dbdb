"""The studies that come with the book, by name."""

from importlib import import_module

from saerepgeo_lib.errors import choose
from saerepgeo_lib.studies.study import Study

STUDIES = {  # name: the module that has its STUDY, imported when it is wanted
    "separability": "saerepgeo_lib.studies.separability.trainings",
    "smollm2": "saerepgeo_lib.studies.smollm2",
    "sparse-dense": "saerepgeo_lib.studies.sparse_dense",
    "specifications": "saerepgeo_lib.studies.specifications",
    "stratification": "saerepgeo_lib.studies.stratification",
    "vision": "saerepgeo_lib.studies.vision.cases",
}


def find_study(name: str) -> Study:
    """The study of that name. Raises UserError for an unknown one."""
    study: Study = import_module(STUDIES[choose("study", name, STUDIES)]).STUDY
    return study
