"""The gate between a backend's outputs and its latencies: exact on arrays small enough to reckon by hand."""

import math
from typing import get_args

import msgspec
import pytest

from bench import parity
from bench.errors import Failed
from bench.schema import Parity, Precision

np = pytest.importorskip("numpy")

SOUND = Parity(max_error=0.0, cosine=1.0, top1_agreement=1.0, tolerance=1e-4, reference="r", images=2)
# Two images, three classes; its range is 8 - 0 = 8.
REFERENCE = np.array([[0, 2, 4], [8, 4, 0]], np.float32)


def compare(outputs, expected=REFERENCE, precision="fp32"):
    return parity.compare([np.asarray(outputs)], [np.asarray(expected)], precision, "the reference")


def refusal(outputs, expected):
    with pytest.raises(Failed) as caught:
        parity.compare(outputs, expected, "fp32", "the reference")
    return str(caught.value)


# Inputs


def test_the_inputs_are_always_the_same():
    images = parity.images((3, 4, 4))
    assert images.shape == (parity.IMAGES, 3, 4, 4)
    assert images.dtype == np.float32
    assert (images == parity.images((3, 4, 4))).all()
    assert images[0, 0, 0, :3].tolist() == pytest.approx([0.83159, 0.30991, 1.22906], abs=5e-6)
    assert abs(images.std() - 1) < 0.1


@pytest.mark.parametrize(
    ("size", "batches"),
    [
        (1, [[0], [1], [2], [3], [4], [5], [6], [7]]),
        (3, [[0, 1, 2], [3, 4, 5], [6, 7, 0]]),
        (4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (8, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (16, [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]]),
        (20, [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]]),
    ],
)
def test_the_last_batch_starts_over(size, batches):
    images = np.arange(8, dtype=np.float32).reshape(8, 1)
    made = parity.batches(images, size)
    assert [batch[:, 0].tolist() for batch in made] == batches
    assert all(batch.flags.c_contiguous and batch.dtype == np.float32 for batch in made)
    assert (np.concatenate(made)[: len(images)] == images).all()


def test_a_batch_is_no_view_of_the_images():
    images = np.zeros((8, 1), np.float32)
    parity.batches(images, 4)[0].fill(1)
    assert not images.any()


def test_a_reference_survives_its_file(tmp_path):
    file = tmp_path / "reference.npz"
    inputs = parity.images((1, 2, 2))
    outputs = [np.float32([[1.5]]), np.int64([[2, 3]]), *(np.float32([[index]]) for index in range(10))]
    parity.save(file, inputs, outputs, "paddle 3, unoptimised")
    back, outputs_back, made_by = parity.load(file)
    assert (back == inputs).all()
    assert [array.tolist() for array in outputs_back] == [array.tolist() for array in outputs]
    assert [array.dtype for array in outputs_back] == [array.dtype for array in outputs]
    assert made_by == "paddle 3, unoptimised"


# What is measured


def test_the_same_outputs_have_no_error():
    assert compare(REFERENCE) == Parity(
        max_error=0.0, cosine=1.0, top1_agreement=1.0, tolerance=1e-4, reference="the reference", images=2
    )


def test_the_error_is_the_largest_as_a_share_of_the_range():
    found = compare(REFERENCE + np.float32([[0, 1, 0], [0, 0, -2]]))
    assert found.max_error == 2 / 8
    assert found.top1_agreement == 1.0


def test_the_range_is_the_references():
    assert compare(REFERENCE * 2).max_error == 8 / 8
    assert compare(REFERENCE, REFERENCE * 2).max_error == 8 / 16


def test_top1_is_the_share_of_images_whose_largest_value_is_at_the_same_place():
    assert compare([[4, 2, 0], [8, 4, 0]]).top1_agreement == 0.5
    assert compare([[4, 2, 0], [0, 4, 8]]).top1_agreement == 0.0


def test_the_cosine_is_of_what_tells_images_apart():
    """Less the mean over images, the reference is (-4, -1, 2) and its negative."""
    other = [[0, 3, 0], [8, 3, 0]]  # (-4, 0, 0) and its negative
    assert compare(other).cosine == pytest.approx(16 / (math.sqrt(21) * 4))
    assert compare(REFERENCE[::-1]).cosine == pytest.approx(-1)
    assert compare(REFERENCE * 3 + 5).cosine == pytest.approx(1)


def test_the_cosine_of_outputs_that_tell_no_images_apart_is_nought():
    assert compare([[4, 3, 2], [4, 3, 2]]).cosine == 0


@pytest.mark.parametrize(("difference", "cosine"), [(0.0, 1.0), (1e-4, 1.0), (1e-2, 0.0)])
def test_nothing_is_asked_where_the_reference_hardly_tells_images_apart(difference, cosine):
    """By half the difference from their mean, that is, over a range of 2: admissible are 1e-4."""
    reference = [[0.0, 2.0, 1.0], [0.0, 2.0, 1.0 + difference]]
    assert compare([[0.0, 2.0, 1.0]] * 2, reference).cosine == cosine


def test_constant_outputs_are_measured_by_their_size():
    assert compare([[5.0], [6.0]], [[5.0], [5.0]]).max_error == 1 / 5
    assert compare([[-5.0], [-6.0]], [[-5.0], [-5.0]]).max_error == 1 / 5
    assert compare([[0.0], [0.5]], [[0.0], [0.0]]).max_error == 0.5
    assert compare([[5.0], [5.0]], [[5.0], [5.0]]).max_error == 0


def test_of_several_outputs_the_worst_counts():
    worse = REFERENCE + np.float32([[0, 0, 0], [0, -8, 0]])
    single = compare(worse)
    for outputs in ([REFERENCE, worse], [worse, REFERENCE]):
        found = parity.compare(outputs, [REFERENCE] * 2, "fp32", "the reference")
        assert found == single


def test_outputs_may_have_any_number_of_dimensions():
    maps = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    found = compare(maps + np.float32(2.3), maps)
    assert found.max_error == pytest.approx(0.1)
    assert found.images == 2


def test_integers_are_compared_as_numbers():
    found = compare(np.int64([[3], [0]]), np.int64([[2], [0]]))
    assert found.max_error == 0.5
    assert found.denormals == 0


@pytest.mark.parametrize(
    ("dtype", "least_normal", "least"),
    [("float16", 2**-14, 2**-24), ("float32", 2**-126, 2**-149), ("float64", 2**-1022, 5e-324)],
)
def test_denormals_are_counted_in_their_own_type(dtype, least_normal, least):
    below = np.nextafter(np.array(least_normal, dtype), np.array(0, dtype))
    values = np.array(
        [least_normal, -least_normal, 0.0, -0.0, 1.0, np.inf, np.nan, below, -below, least, -least], dtype
    )
    assert parity.denormals(values) == 4
    assert parity.denormals(values[::2]) == 1 + 1  # least normal, 0, 1, NaN, -below, -least


def test_denormals_of_all_outputs_are_recorded():
    tiny = REFERENCE.copy()
    tiny[0, 0] = 1e-40
    assert compare(tiny).denormals == 1
    assert parity.compare([tiny, tiny], [REFERENCE] * 2, "fp32", "r").denormals == 2


# What can't be measured


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    outputs = REFERENCE.copy()
    outputs[1, 1] = bad
    assert refusal([outputs], [REFERENCE]) == "outputs are not finite; 1 NaN or infinite values"
    said = refusal([REFERENCE], [outputs])
    assert said == "outputs of the reference, the reference, are not finite; 1 NaN or infinite values"


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([], [(2, 3)]),
        ([(2, 3)], []),
        ([(2, 3)], [(2, 3), (2, 3)]),
        ([(2, 4)], [(2, 3)]),
        ([(1, 3)], [(2, 3)]),
        ([(3,)], [(2, 3)]),
        ([(2, 3, 1)], [(2, 3)]),
        ([(2, 3), (2, 1)], [(2, 1), (2, 3)]),
    ],
)
def test_another_number_or_shape_of_outputs_is_refused(outputs, expected):
    said = refusal([np.ones(shape) for shape in outputs], [np.ones(shape) for shape in expected])
    assert said == f"outputs have the wrong shape; {outputs}, where the reference gives {expected}"


@pytest.mark.parametrize("shapes", [[], [(0, 3)], [(2, 0)], [(2, 3), (2, 0)]])
def test_empty_outputs_are_refused_even_where_the_reference_is_empty_too(shapes):
    arrays = [np.ones(shape) for shape in shapes]
    assert "outputs are empty" in refusal(arrays, arrays)


# The gate


def test_every_precision_has_a_tolerance():
    assert parity.TOLERANCES.keys() == set(get_args(Precision))
    assert (
        parity.TOLERANCES["fp32"] < parity.TOLERANCES["fp16"] < parity.TOLERANCES["bf16"] <= parity.TOLERANCES["int8"]
    )


@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_tolerance_is_that_of_the_precision(precision):
    tolerance = parity.TOLERANCES[precision]
    within, beyond = (
        compare(REFERENCE + error * 8, REFERENCE.astype(np.float64), precision)
        for error in (0.9 * tolerance, 1.1 * tolerance)
    )
    assert within.tolerance == beyond.tolerance == tolerance
    assert not parity.fault(within)
    assert parity.fault(beyond)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"max_error": 1e-4}, ""),
        ({"max_error": 1.01e-4}, "maximum error 1.0e-04 of its range, 1e-04 is admissible"),
        ({"max_error": 0.25, "tolerance": 0.1}, "maximum error 2.5e-01 of its range, 1e-01 is admissible"),
        ({"max_error": math.nan}, "maximum error nan of its range, 1e-04 is admissible"),
        ({"cosine": 0.5}, ""),
        ({"cosine": 0.49}, "images are told apart in another way: cosine 0.49, 0.5 is asked"),
        ({"cosine": math.nan}, "images are told apart in another way: cosine nan, 0.5 is asked"),
        ({"top1_agreement": 0.0, "denormals": 1000}, ""),
    ],
)
def test_the_gate_decides_by_error_and_cosine(change, fault):
    found = msgspec.structs.replace(SOUND, **change)
    assert parity.fault(found) == fault


def network_like(rng, images=8, classes=1000, common=4.0):
    """Outputs as networks give them: most of each is the same for all images."""
    return (common * rng.standard_normal(classes) + rng.standard_normal((images, classes))).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda right: np.roll(right, 1, axis=0),
        lambda right: np.broadcast_to(right[:1], right.shape),
        lambda right: np.broadcast_to(right.mean(axis=0), right.shape),
        lambda right: np.zeros_like(right),
        lambda right: right[:, ::-1],
        lambda right: right - 2 * (right - right.mean(axis=0)),
    ],
    ids=["next image's", "first image's", "mean", "zeros", "classes reversed", "mirrored"],
)
def test_outputs_of_the_wrong_image_do_not_pass_however_much_they_share(precision, wrong):
    right = network_like(np.random.default_rng(1))
    noisy = right + 0.3 * parity.TOLERANCES[precision] * np.ptp(right) * np.random.default_rng(2).uniform(
        -1, 1, right.shape
    )
    assert not parity.fault(compare(noisy, right, precision))
    assert parity.fault(compare(wrong(right), right, precision))
