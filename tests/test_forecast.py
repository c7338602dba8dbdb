"""Forecasts of time and memory: they grow as the work does, and what does not fit is refused."""

import logging
from dataclasses import replace

import pytest
from conftest import HOOK
from refusals import refused
from sae_lens import TopKSAE, TopKSAEConfig
from test_noise_sweep import activations

from saerepgeo_lib.activations.model_with_saes import ModelWithSAEs
from saerepgeo_lib.activations.prompts import Concept
from saerepgeo_lib.activations.token_activations import read_concept
from saerepgeo_lib.studies import forecast
from saerepgeo_lib.studies.compare_geometry import compare_geometry, forecast_comparison
from saerepgeo_lib.studies.forecast import Forecast, forecast_geometry, forecast_ranks
from saerepgeo_lib.studies.rank_profile import forecast_profile, rank_profile
from saerepgeo_lib.studies.steering_experiment import cases_of, forecast_cases

GIB = 2.0**30


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "about a second"), (59, "about 59 seconds"), (5_000, "about 83 minutes"),
     (7_200, "about 2 hours"), (1e6, "about 280 hours")],
)  # fmt: skip
def test_a_forecast_in_words(seconds, words):
    assert str(Forecast(seconds, 1.25 * GIB)) == f"{words} of one core and 1.2 GiB"
    both = [Forecast(seconds / 2, GIB), Forecast(seconds / 2, 1.25 * GIB)]
    assert f"{words} of one core and 1.2 GiB." in forecast.forecast_text(both)


def test_forecasts_grow_as_the_work_does():
    """Cubic in the tokens while they are fewer than the features, then linear in the long side."""
    options = {"n_levels": 3, "n_seeds": 2}
    small, large = (forecast_ranks(n, 2, [10**5], **options).seconds for n in (500, 1_000))
    assert 4 < large / small < 9
    small, large = (forecast_ranks(n, 1, [384], **options).seconds for n in (50_000, 100_000))
    assert large / small == pytest.approx(2, rel=0.2)
    more = forecast_ranks(500, 2, [10**5], n_levels=6, n_seeds=4)
    assert more.seconds == pytest.approx(4 * forecast_ranks(500, 2, [10**5], **options).seconds)
    few, many = (forecast_geometry(n, [384, 3072], n_groups=12).memory for n in (1_000, 2_000))
    assert 1.9 < many / few < 4


def test_what_does_not_fit_is_refused_with_the_number_of_prompts_that_does(small_sae, monkeypatch):
    acts = activations(n_prompts=40)
    given = {"saes": {"SAE": small_sae}, "levels": [0, 1], "seeds": [0, 1]}
    needed = forecast_profile(acts, **given).memory
    monkeypatch.setattr(forecast, "free_memory", lambda *_: needed)
    assert rank_profile(acts, **given).sweep.tensor_shape == (40, 2)
    monkeypatch.setattr(forecast, "free_memory", lambda *_: 0.6 * needed)
    refused(
        "Case 1 of tokens with 40 prompts .* set max_prompts to 20", rank_profile, acts, **given
    )
    monkeypatch.setattr(forecast, "free_memory", lambda *_: 0.0)
    refused("no number of prompts fits", rank_profile, acts, **given)


def test_case_3_counts_every_concept_and_sae(small_sae, monkeypatch):
    few, many = activations(n_prompts=20), activations(n_prompts=80)
    given = {"saes": {"a": small_sae, "b": small_sae}}
    whole = forecast_cases([few, many], **given)
    parts = [forecast_cases([one], **given).memory for one in (few, many)]
    assert whole.memory == pytest.approx(sum(parts)) and parts[1] == pytest.approx(4 * parts[0])
    assert forecast_cases([few, many], max_prompts=20, **given).memory == pytest.approx(
        2 * parts[0]
    )
    monkeypatch.setattr(forecast, "free_memory", lambda *_: 0.9 * sum(parts))
    acts = [replace(one, concept=Concept("c", ())) for one in (few, many)]
    refused("Case 3 with 80 prompts .* set max_prompts to 50", cases_of, acts, **given)
    full = {"cpu": 2 * sum(parts), "meta": 0.9 * sum(parts)}  # a device without memory, as cuda
    monkeypatch.setattr(forecast, "free_memory", full.get)
    acts = [replace(one, x=one.x.to("meta")) for one in acts]
    refused("max_prompts to 50 or less, or on a page without it", cases_of, acts, **given)


def test_case_2_is_refused_before_anything_is_encoded(days, minilm, monkeypatch, caplog):
    sae = TopKSAE(TopKSAEConfig(k=4, d_in=384, d_sae=512))
    sae.cfg.metadata.hook_name = HOOK
    acts = read_concept(minilm, days.concept, HOOK, source=ModelWithSAEs(minilm, {"mine": sae}))
    monkeypatch.setattr(sae, "encode", None)
    monkeypatch.setattr(forecast, "free_memory", lambda *_: 1e3)
    refused("Case 2 .* GiB are free: no number of prompts", compare_geometry, acts)
    assert forecast_comparison(acts).memory > 8 * len(acts) * 512
    monkeypatch.setattr(forecast, "free_memory", lambda *_: float("inf"))
    with caplog.at_level(logging.WARNING):
        forecast.affordable("Case 9", 70, lambda n: Forecast(1e5, 1))
    assert "Case 9 with 70 prompts: about 28 hours" in caplog.text and "max_prompts" in caplog.text


@pytest.mark.parametrize(
    ("files", "free"),
    [({"/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable: 3072 kB"]}, 3 * 2.0**20), ({}, None),
     ({"/proc/meminfo": ["MemAvailable: 3072 kB"], "/sys/fs/cgroup/memory.max": ["max"],
       "/sys/fs/cgroup/memory.current": ["7"]}, 3 * 2.0**20),
     ({"/proc/meminfo": ["MemAvailable: 3072 kB"], "/sys/fs/cgroup/memory.max": ["1000"],
       "/sys/fs/cgroup/memory.current": ["400"]}, 600),
     ({"/proc/meminfo": ["MemAvailable: 3072 kB"], "/sys/fs/cgroup/memory.max": ["1000"],
       "/sys/fs/cgroup/memory.current": ["900"],  # 650 of them are files that were read
       "/sys/fs/cgroup/memory.stat": ["anon 240", "inactive_file 650", "active_file 10"]}, 750)],
)  # fmt: skip
def test_free_memory_is_that_of_the_container(files, free, monkeypatch):
    assert 0 < forecast.free_memory() <= float("inf")
    monkeypatch.setattr(forecast, "_lines", lambda path: files.get(path, []))
    assert forecast.free_memory() == (float("inf") if free is None else free)
