"""The benchmarks: plain counterparts give the library's results, and the guard sees what it should.

Timings are not tested here, only what is computed from them.
"""

import itertools
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from benchmarks import (
    compare,
    everything,
    limits,
    measure,
    peers,
    plain,
    plain_edits,
    scaling,
    shapes,
    side,
    stages,
)
from benchmarks.growth import growth
from benchmarks.limits import Limits
from saerepgeo_lib.activations.latents import encode
from saerepgeo_lib.activations.residual_stream import draw_noise, rms, run_to_hook
from saerepgeo_lib.errors import UserError
from saerepgeo_lib.files import read_json, write_json
from saerepgeo_lib.rank.noise_sweep import stream, sweep
from saerepgeo_lib.rank.unfoldings import aligned_rows, modal_spectra
from saerepgeo_lib.steering import optimise as interventions
from saerepgeo_lib.steering.latents import ClusteredLatents, ratios, steer

SIZES = {
    "d_model": 32, "d_mlp": 64, "d_heads": 32, "d_keys": 32, "n_heads": 4, "vocabulary": 600,
    "blocks_needed": 2, "blocks_built": 2, "blocks_above": 1, "n_features": 256, "k": 8,
}  # fmt: skip
GEMMAS = {"d_heads": 64, "blocks_needed": 4, "blocks_above": 0, "gated": True}
TINY = {family: shapes.Shape(f"tiny-{family}", family, **SIZES | sizes)
        for family, sizes in (("gpt2", {}), ("bert", {}), ("gemma2", GEMMAS))}  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")  # beside other tests
ROUND = Limits("cpu", "float32", square=1e9, encode=2e9, float64=1e8, bandwidth=1e10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="module")
def bench(cache):
    """`bench(family)`: that small shape with its model."""
    return lambda family: stages.Bench(
        TINY[family], shapes.build(TINY[family], cache=cache), concept="days"
    )


@pytest.fixture(scope="module")
def tiny(bench):
    return bench("gpt2")


def near(found, expected):
    """Asserts equality up to 1e-5 of the largest expected value."""
    atol = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("family", TINY)
def test_a_shape_is_what_it_says(family, bench, cache):
    shape, model = TINY[family], bench(family).model
    saved = transformers.AutoModel.from_pretrained(shapes.checkpoint(shape, cache))
    lists = [module for module in saved.modules() if isinstance(module, torch.nn.ModuleList)]
    in_block = sum(p.numel() for p in lists[0][0].parameters() if p.ndim == 2)
    assert in_block == shape.weights_a_block
    assert model.model.cfg.n_layers == shape.blocks_built + shape.blocks_above
    acts = model.activations("days")
    assert acts.x.shape[1] == shape.d_model and rms(acts.x) > 0
    tokens = acts.tokens
    _, whole = model.model.run_with_cache(
        tokens.ids, attention_mask=tokens.attention.long(), names_filter=[shape.hook]
    )
    x = run_to_hook(model.model, tokens.ids, tokens.attention, shape.hook)
    torch.testing.assert_close(x, whole[shape.hook], rtol=1e-5, atol=1e-5)
    sae = model.saes[shapes.LABEL]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(shape.n_features))
    assert encode(sae, acts.x).l0 <= shape.k


def noise_like_the_sweeps(acts, rows):
    """Noise for all tokens that is, at the tensor's tokens, what the sweep draws for seed 0."""
    d = acts.x.shape[1]
    drawn = draw_noise(acts.x[rows.flatten()], stream(0, "noise"))
    noise = torch.randn(*acts.tokens.ids.shape, d, generator=torch.Generator().manual_seed(9))
    at = acts.prompt[rows], acts.position[rows]
    noise[at] = drawn.view(*rows.shape, -1)
    return rms(acts.x) * noise, at


@pytest.mark.parametrize("variant", ["lean", "careful"])
def test_sweeps_over_the_same_tokens_give_the_librarys_spectra_at_every_level(tiny, variant):
    levels = (0.0, 0.1, 1.0)
    rows = aligned_rows(tiny.acts, max_slots=2)
    noise, at = noise_like_the_sweeps(tiny.acts, rows)
    found = plain.spectra(
        tiny.model.model, tiny.sae, tiny.tokens, tiny.shape.hook, noise, levels=levels,
        variant=variant, at=at,
    )  # fmt: skip
    expected = sweep(
        tiny.acts, {"SAE": tiny.sae}, sparse=(), levels=levels, seeds=(0, 1), max_slots=2
    )
    for i in range(len(levels)):
        for mode in (1, 2, 3):
            theirs, ours = found[i][mode], torch.from_numpy(expected.spectra["SAE", mode][i, 0])
            k = min(len(theirs), len(ours))
            near(theirs[:k], ours[:k])
            assert (theirs[k:] < 1e-5 * ours[0]).all() and not ours[k:].any()


def test_the_plain_spectra_and_the_gram_matrix_agree_with_the_librarys(tiny):
    tokens, hook = tiny.tokens, tiny.shape.hook
    noise = torch.randn(*tokens.ids.shape, tiny.shape.d_model)
    given = {"levels": (0.0, 0.5), "at": (torch.arange(84)[:, None], torch.tensor([[1, 2]]))}
    read = partial(plain.spectra, tiny.model.model, tiny.sae, tokens, hook, noise, **given)
    found = {variant: read(variant=variant) for variant in ("plain", "lean", "gram")}
    for i, level in enumerate(given["levels"]):
        x = plain.run_with_noise(tiny.model.model, tokens, hook, level * noise)
        every = modal_spectra(tiny.sae.encode(x).flatten(0, 1).detach(), x.shape[1])
        for mode, values in every.items():
            k = min(len(values), len(found["plain"][i][mode]))
            near(found["plain"][i][mode][:k], values[:k])
        lean, gram = found["lean"][i][3], found["gram"][i][3]
        near(gram[: len(lean)], lean)


@pytest.fixture(scope="module")
def edits(tiny):
    """The same tokens and clusters for the library and for the plain side; some are in none."""
    sae, x, labels = tiny.sae, tiny.acts.x, tiny.acts.entity
    theirs = plain_edits.Dense(sae, x, sae.encode(x).detach(), torch.from_numpy(labels))
    return ClusteredLatents.of(sae, x, labels), theirs


@pytest.mark.parametrize("kind", ["free", "valid"])
def test_the_plain_edit_has_the_librarys_objective_gradient_and_least_error(edits, kind):
    ours, theirs = edits
    generator = torch.Generator().manual_seed(1)
    shift = 0.1 * ours.aedp * torch.randn(ours.centroids.shape, generator=generator)
    wide = torch.zeros_like(theirs.unmoved)
    wide[:, ours.features] = shift
    a, e = plain_edits.ratios(theirs, wide.requires_grad_(), kind)
    (gradient,) = torch.autograd.grad(e - a.log(), wide)
    found = ratios(ours, shift.double(), kind)
    assert (a.item(), e.item()) == pytest.approx(found, rel=1e-5)
    shift = shift.double().requires_grad_()
    edited = steer(ours, shift, kind)
    separation = torch.pdist(edited.centroids).mean() / ours.aedp
    (expected,) = torch.autograd.grad(edited.mse() / ours.mse - separation.log(), shift)
    near(gradient[:, ours.features], expected)
    gradient[:, ours.features] = 0
    assert not gradient.any()
    for dose in (0.8, 1.5):  # and the search for the least error ends at the same place
        reached, error, _ = plain_edits.least_mse_at(theirs, dose, kind, theirs.unmoved, n_steps=24)
        least = interventions.least_mse_at(ours, dose, kind=kind, n_steps=24)
        assert (reached, error) == pytest.approx((least.aedp, least.mse), rel=2e-3)


def test_every_stage_runs_and_has_a_floor(tiny):
    found = stages.stages(tiny)
    assert tuple(found) == stages.STAGES
    for stage in found.values():
        costs = measure.measure(stage.work, rounds=1, warmup=0)
        kept = stages.row(tiny, stage, costs, ROUND, rate=5e9)
        assert kept["floor_s"] > 0 and kept["share"] > 0
        assert kept["gflop"] == pytest.approx([5 * seconds for seconds in kept["wall_s"]])
    model, two = (found[name].floor(ROUND) for name in ("residuals", "encode sweep"))
    assert found["Case 1, no nulls"].floor(ROUND) == pytest.approx(model + two)
    assert found["Case 1"].floor(ROUND) == pytest.approx(model + 3.5 * two)


def test_a_sweep_is_held_against_the_product_timed_just_before_it(tiny, monkeypatch):
    rates, cost = iter([1e6, 2e6]), [measure.Cost(4.0, 0.0, None)]
    monkeypatch.setattr(stages, "product_rate", lambda *given, **options: next(rates))
    monkeypatch.setattr(stages, "measure", lambda *given, **options: cost)
    operations = 2 * 2 * len(tiny.rows) * tiny.shape.d_model * tiny.shape.n_features
    expected = [operations / 1e6 / 4, operations / 2e6 / 4]
    assert stages.sweep_beside_product(tiny, n_pairs=2) == pytest.approx(expected)


def test_residuals_are_scaled_for_blocks_not_built_and_their_floor_counts_tokens_read(tiny, bench):
    part = stages.stages(stages.Bench(replace(tiny.shape, blocks_needed=4), tiny.model))
    assert part["residuals"].factor == 2
    assert set(stages.STAGES) - set(part) == {"Case 1", "Case 1, no nulls", "Case 3 doses"}
    content, attended = tiny.tokens.content, tiny.tokens.attention
    last = [max(i for i, yes in enumerate(row) if yes) + 1 for row in content.tolist()]
    assert sum(last) < attended.sum()
    read = sum(last)  # nothing is padded in front
    causal = limits.residual_floor(tiny.shape, read, ROUND)
    assert stages.stages(tiny)["residuals"].floor(ROUND) == pytest.approx(causal)
    bert = bench("bert")
    every = limits.residual_floor(bert.shape, int(bert.tokens.attention.sum()), ROUND)
    assert stages.stages(bert)["residuals"].floor(ROUND) == pytest.approx(every)


def test_floors_are_those_derived_by_hand():
    shape = TINY["gpt2"]
    assert shape.weights_a_block == 4 * 32 * 32 + 2 * 32 * 64
    assert shapes.GEMMA.weights_a_block == 2304 * (2048 + 1024 + 1024 + 2048 + 3 * 9216)
    assert limits.residual_floor(shape, 10, ROUND) == 2 * 10 * 2 * 8192 / 1e9
    assert limits.encode_floor(shape, 100, 10, ROUND) == 10 * 2 * 100 * 32 * 256 / 2e9
    # 2 x 1 x 3: no QR of the features, 2 features on 3 rows less their third, three small squares
    wide = 2 * 4 * (3 - 2 / 3) + 8 / 3 * 8  # prompts: 2 x 2, no QR; the tokens' QR comes first
    assert limits.spectra_floor(2, 1, 3, ROUND) == pytest.approx(
        (wide + (8 / 3 * 8) + (2 * 1 * (4 - 1 / 3) + 8 / 3)) / 1e8
    )
    assert limits.cluster_floor(3, 5, ROUND) == (2 * 9 * 5 + 4 / 3 * 27) / 1e8
    sizes = {"n_clusters": 7, "n_active": 50, "n_nonzero": 400, "limits": ROUND}
    assert limits.step_floor(shape, valid=False, **sizes) == 4 * 7 * 50 * 32 / 1e9
    assert limits.step_floor(shape, valid=True, **sizes) == 8 * 400 * 32 / 1e10


def test_a_call_is_charged_with_the_memory_that_it_adds():
    costs = measure.measure(lambda: torch.ones(2**24).sum().item(), rounds=2)  # 64 MiB
    assert len(costs) == 2 and min(cost.cpu_s for cost in costs) > 0
    assert costs[0].peak_mib is None or costs[0].peak_mib == pytest.approx(64, abs=8)


def test_parts_add_up_by_name(monkeypatch):
    """By clocks that go on by one, and by two, whenever they are read."""
    wall, cpu = itertools.count(), itertools.count(0, 2)
    clocks = SimpleNamespace(perf_counter=lambda: next(wall), process_time=lambda: next(cpu))
    monkeypatch.setattr(measure, "time", clocks)
    parts = measure.Parts()
    for name in ("a", "b", "a"):
        with parts(name):
            pass
    assert parts.seconds == {"a": {"wall_s": 2, "cpu_s": 4}, "b": {"wall_s": 1, "cpu_s": 2}}


@pytest.mark.parametrize(("fixed", "exponent"), [(0.0, 1.0), (0.5, 1.7), (0.3, 1.0), (0.0, 2.5)])
def test_exponents_of_planted_laws_are_recovered(fixed, exponent):
    sizes = np.repeat([16, 32, 64, 128, 256], 3)
    law = fixed + 0.01 * sizes**exponent
    noise = [np.random.default_rng(seed).standard_normal(len(sizes)) for seed in range(60)]
    found = [growth(sizes, law * np.exp(0.02 * each)) for each in noise]
    assert sum(fit.low <= exponent <= fit.high for fit in found) >= 0.85 * len(found)
    assert np.median([fit.exponent for fit in found]) == pytest.approx(exponent, abs=0.05)
    assert np.median([fit.fixed for fit in found]) == pytest.approx(fixed, abs=0.1)


@pytest.mark.parametrize("axis", ["levels", "seeds"])
def test_a_sweep_over_more_levels_or_seeds_takes_no_more_memory(tiny, axis, monkeypatch):
    """What is kept of a level are spectra; the latents of 32 levels together would take 32 MiB.

    Single peaks scatter by ten: what is kept would show in each of three measurements.
    """
    monkeypatch.setitem(scaling.SIZES, axis, (2, 4, 8, 32))
    size = scaling.Size(prompts=32, features=4_096, levels=2)
    monkeypatch.setitem(scaling.LARGER, "sweep", size)
    rises = []
    while len(rises) < 3 and min(rises, default=10) >= 10:
        found = scaling.grow(tiny.shape, "sweep", axis, model=None, repeats=1)
        assert [point["size"] for point in found["points"]] == [2, 4, 8, 32]
        peaks = [point["peak_mib"] for point in found["points"]]
        rises.append(0 if None in peaks else peaks[-1] - peaks[0])
    assert min(rises) < 10, rises
    assert found["low"] <= found["exponent"] <= found["high"]


def test_sides_tell_their_parts_in_case_1_and_edit_the_same_clusters_in_case_3(tiny):
    for variant in ("plain", "careful"):
        parts = measure.Parts("cpu")
        side.case1_plain(tiny.model, "days", parts, variant=variant, n_levels=2)
        assert set(parts.seconds) == {"model", "encode", "spectra"}
    given = {"kind": "free", "doses": [1.1]}
    both = (partial(side.case3_library, searched=True), side.case3_plain)
    ours, theirs = (of(tiny.model, "days", measure.Parts("cpu"), **given) for of in both)
    assert ours["clusters"] == theirs["clusters"] > 1


def a_record(path, seconds, gflops=100.0):
    one = {"shape": "minilm", "device": "cpu", "precision": "float32"}
    rows = [one | {"stage": stage, "gflop": [wall * gflops for wall in walls]}
            for stage, walls in seconds.items()]  # fmt: skip
    write_json(path, {"stages": rows})
    return str(path)


def test_the_guard_speaks_up_when_a_stage_is_slower_and_only_then(tmp_path, capsys):
    stored = a_record(tmp_path / "stored.json", {"spectra": [1.0, 1.1, 1.2], "Case 1": [5.0]})
    for now, gflops, code in (
        ([1.0, 1.1, 1.2], 100.0, 0),  # the same
        ([2.0, 2.2, 2.4], 50.0, 0),  # a machine half as fast
        ([2.0, 2.2, 2.4], 100.0, 1),  # slower
        ([1.2, 1.6, 1.7], 100.0, 0),  # its fastest round is as fast as one of the stored
        ([1.25, 1.3, 1.35], 100.0, 0),  # within the tolerance
        ([0.2, 0.3, 0.4], 100.0, 0),  # faster
    ):
        fresh = a_record(tmp_path / "fresh.json", {"spectra": now}, gflops)
        assert compare.main([fresh, "--stored", stored]) == code
        said = capsys.readouterr().out
        assert ("SLOWER" in said) == ("Nothing is slower" not in said) == bool(code)


def test_of_another_machine_or_of_no_stored_stage_the_guard_has_no_verdict(tmp_path, capsys):
    stored = a_record(tmp_path / "stored.json", {"spectra": [1.0], "Case 1": [5.0]})
    fresh = a_record(tmp_path / "fresh.json", {"spectra": [9.0]})
    assert compare.main([fresh, "--stored", stored]) == 1
    assert "Stored, but not run now: minilm Case 1" in capsys.readouterr().out
    for machine, code, words in (
        ({"cores": 64}, 0, "No verdict on another machine"),
        ({"torch": "99"}, 1, "torch None, here 99"),
    ):
        path = tmp_path / "fresh.json"
        write_json(path, read_json(path) | {"machine": machine})
        assert compare.main([fresh, "--stored", stored]) == code
        assert words in capsys.readouterr().out
    other = a_record(tmp_path / "other.json", {"clusters": [9.0]})
    assert compare.main([other, "--stored", stored]) == 0
    assert "none of these stages" in capsys.readouterr().out


def test_the_guard_reads_what_pytest_benchmark_writes_and_says_that_the_machine_was_busy(tmp_path):
    key = ("minilm", "spectra", "cpu", "float32")
    row = dict(zip(("shape", "stage", "device", "precision"), key, strict=True))
    row |= {"gflop": [3.0], "others_cores": 1.0}
    path = tmp_path / "bench.json"
    write_json(path, {"benchmarks": [{"name": "test", "extra_info": row}]})
    fresh = compare.read_stages(path)
    assert fresh == {key: row}
    (found,) = compare.compared(fresh, {key: {"gflop": [1.0]}})
    assert found["verdict"] == "SLOWER (others kept 1.0 cores busy)"


def test_a_side_runs_alone_its_result_is_kept_and_one_without_time_is_named(tmp_path):
    out = tmp_path / "peers.json"
    work = list(
        peers.items(1, sides=["library"], shape="minilm", concepts=["days"], levels=[1], doses=[],
                    device="cpu")
    )  # fmt: skip
    (found,) = peers.resume(work, out, budget=600)
    seconds = {name: part["cpu_s"] for name, part in found["parts"].items()}
    assert "failed" not in found and set(seconds) == {"load", "model", "encode", "spectra"}
    assert found["process_cpu_s"] > sum(seconds.values()) and found["process_peak_mib"] > 100
    assert list(peers.resume(work, out, budget=600)) == []
    (total,) = read_json(out)["totals"]
    assert total["cpu_s"] == pytest.approx(sum(seconds.values()) - seconds["load"])
    work, out = [peers.Item(1, "plain", "minilm", "days", levels=1)], tmp_path / "none.json"
    assert list(peers.resume(work, out, budget=0)) == []
    record = read_json(out)
    assert record["runs"] == [] and record["left_out"][0]["concept"] == "days"


def test_a_record_keeps_what_is_not_measured_again_and_names_what_it_lacks(tmp_path):
    out = tmp_path / "x.json"
    row = {"shape": "minilm", "stage": "spectra", "precision": "float32"}
    run = everything.Run(out, everything.opened(out, "cpu"))
    run.add("stages", row | {"wall_s": [1.0]}, "")
    run.add("scaling", {"shape": "minilm", "stage": "sweep", "axis": "levels"}, "")
    run.add("stages", row | {"shape": "gpt2-small", "wall_s": [2.0]}, "")

    again = everything.Run(out, everything.opened(out, "cpu"))
    again.add("stages", row | {"wall_s": [3.0]}, "")
    again.leave_out(everything.stage_name("minilm", "clusters"), "no time")
    kept = read_json(out)
    walls = {r["shape"]: r["wall_s"] for r in kept["stages"]}
    assert walls == {"minilm": [3.0], "gpt2-small": [2.0]}
    assert len(kept["scaling"]) == 1 and all(r["date"] for r in kept["stages"])
    lacks = {part["what"]: part["why"] for part in kept["left out"]}
    assert lacks["stages at minilm's shape: minilm, clusters"] == "no time"
    assert lacks["stages at gemma-2-2b's shape"] == "not run"
    assert lacks["Case 3, plain side"] == "not run"
    everything.Run(out, everything.opened(out, "cpu")).add("stages", row | {"wall_s": [4.0]}, "")
    record = read_json(out)
    lacks = {part["what"]: part["why"] for part in record["left out"]}
    assert lacks["stages at minilm's shape: minilm, clusters"] == "no time"  # remembered
    assert not any("sweep with levels" in what for what in lacks)

    record["machine"]["cores"] = -1  # a record of another machine is not written over
    write_json(out, record)
    with pytest.raises(UserError, match=r"its cores: -1\): name another --out"):
        everything.opened(out, "cpu")


def test_rates_are_not_measured_beside_other_programs(tiny, monkeypatch, tmp_path):
    """Too low a rate would flatter every share; by a clock of the others' that the test sets."""
    monkeypatch.setattr(limits, "measure_limits", lambda *given, **options: ROUND)
    busy = itertools.accumulate([0, 9, 0, 0], initial=0.0)  # a pair of readings a try
    monkeypatch.setattr(measure, "busy_s", lambda: next(busy))
    assert limits.quiet_limits(tiny.shape, rows=8) == ROUND
    ever = itertools.count(0, 9)
    monkeypatch.setattr(measure, "busy_s", lambda: next(ever))
    monkeypatch.setattr(everything, "prepare", lambda shape, device: tiny)
    run = everything.Run(tmp_path / "x.json", everything.opened(tmp_path / "x.json", "cpu"))
    everything.run_stages(run, tiny.shape, "cpu")
    record = read_json(tmp_path / "x.json")
    assert record["limits"] == record["stages"] == []
    assert all("other programs keep" in why for why in record["reasons"].values())
