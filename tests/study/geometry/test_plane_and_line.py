"""What rows of probes come to, against naive loops."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from study.geometry.analysis import (
    count_regions,
    diameters,
    interval_counts,
    labels_in_planes,
    mean_cosines,
    straightness,
    wrong_intervals,
)


def plane(grid, *, label=0, target=1, image="x", model="m", extent=4.0):
    half = len(grid) // 2
    axis = [(index - half) * extent / half for index in range(len(grid))]
    return pl.DataFrame(
        [
            {"image": image, "model": model, "label": label, "target_label": target, "u": u, "v": v, "top1": int(one)}
            for row, v in zip(grid, axis, strict=True)
            for one, u in zip(row, axis, strict=True)
        ]
    )


def flood(grid):
    """Regions by label: a flood fill with a stack."""
    seen, found = set(), []
    for start in np.ndindex(grid.shape):
        if start in seen:
            continue
        stack, label = [start], grid[start]
        while stack:
            row, column = stack.pop()
            inside = 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]
            if (row, column) in seen or not inside or grid[row, column] != label:
                continue
            seen.add((row, column))
            stack += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        found.append(int(label))
    return found


@pytest.mark.parametrize("labels", [1, 2, 3, 8])
def test_regions_are_those_of_a_flood_fill(labels):
    generator = np.random.default_rng(labels)
    for size in (3, 5, 12, 31):
        grid = generator.integers(0, labels, (size, size), dtype=np.int32)
        expected = flood(grid)
        assert count_regions(grid) == len(expected)
        assert count_regions(grid, 0) == expected.count(0)


def test_a_spiral_is_one_region():
    grid = np.ones((9, 9), dtype=np.int32)
    grid[1, :8] = grid[1:8, 7] = grid[7, 1:8] = grid[3:8, 1] = grid[3, 1:6] = grid[3:6, 5] = grid[5, 3:6] = 0
    assert count_regions(grid, 0) == flood(grid).count(0) == 1
    assert count_regions(grid) == len(flood(grid))


def test_planes_whatever_the_order_of_rows():
    generator = np.random.default_rng(0)
    grids = {("x", "m"): generator.integers(0, 4, (7, 7)), ("y", "m"): generator.integers(0, 2, (7, 7))}
    rows = pl.concat([plane(grid, image=image, model=model) for (image, model), grid in grids.items()])
    found = {
        (one["image"], one["model"]): one
        for one in labels_in_planes(rows.sample(fraction=1, shuffle=True, seed=1)).to_dicts()
    }
    for key, grid in grids.items():
        assert found[key]["labels"] == len(set(grid.ravel().tolist()))
        assert found[key]["regions"] == len(flood(grid))
        assert found[key]["true_regions"] == flood(grid).count(0)
        assert found[key]["true_share"] == pytest.approx((grid == 0).mean())
        assert found[key]["targeted_share"] == pytest.approx((grid == 1).mean())


def test_how_far_the_true_label_reaches():
    grid = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [0, 1, 0, 0, 0], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
    (row,) = diameters(plane(grid)).to_dicts()
    # v rises from the first row of the grid to the last.
    assert row == {"image": "x", "model": "m", "back": 0.0, "ahead": 4.0, "down": 2.0, "up": 2.0}
    (wrong,) = diameters(plane(grid, label=3)).to_dicts()
    assert wrong["back"] is wrong["up"] is None


def test_mean_cosines():
    rows = pl.DataFrame(
        {
            "image": ["x", "y", "z", "x", "y"],
            "first": ["a"] * 5,
            "second": ["b"] * 5,
            "copies": [None, None, None, 4, 4],
            "sigma": [None, None, None, 15.0, 15.0],
            "cosine": [0.1, 0.3, None, 0.5, 0.7],
        }
    )
    plain, smoothed = mean_cosines(rows).to_dicts()
    assert plain["cosine"] == pytest.approx(0.2)
    assert (plain["images"], plain["copies"], smoothed["images"], smoothed["copies"]) == (2, None, 2, 4)
    assert plain["std"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert smoothed["cosine"] == pytest.approx(0.6)


def test_straight_lines():
    distances = np.linspace(-3, 5, 9)
    bent = distances**2
    columns = {"straight": 2 - 0.5 * distances, "bent": bent, "flat": np.full(9, 1.5)}
    rows = pl.DataFrame(
        [
            {"image": "x", "model": "m", "label": 0, "shown": shown, "rank": shown + 1, "distance": at, "logit": one}
            for shown, values in enumerate(columns.values())
            for at, one in zip(distances, values, strict=True)
        ]
    )
    straight, curve, flat = straightness(rows).sort("shown").to_dicts()
    assert straight["slope"] == pytest.approx(-0.5)
    assert straight["r2"] == pytest.approx(1)
    slope, intercept = np.polyfit(distances, bent, 1)
    rest = np.square(bent - (slope * distances + intercept)).sum() / np.square(bent - bent.mean()).sum()
    assert curve["slope"] == pytest.approx(slope)
    assert curve["r2"] == pytest.approx(1 - rest)
    assert (flat["slope"], flat["r2"]) == (pytest.approx(0), None)
    assert [straight["true"], curve["true"]] == [True, False]


def scanned(labels, distances, true):
    """Runs of wrong labels: one look at every point."""
    found, run = [], []
    for at, label in zip(distances, labels, strict=True):
        if label != true:
            run.append(at)
        elif run:
            found.append((run[0], run[-1], len(run)))
            run = []
    return [*found, *([(run[0], run[-1], len(run))] if run else [])]


def test_intervals_are_those_of_a_scan():
    generator = np.random.default_rng(3)
    lines = {(image, model): generator.integers(0, 2, 15) for image in "xyz" for model in "mn"}
    lines["never", "m"], lines["always", "m"] = np.zeros(15, int), np.ones(15, int)
    distances = [float(one) for one in range(-5, 10)]
    rows = pl.DataFrame(
        [
            {"image": image, "model": model, "label": 0, "distance": at, "top1": int(one)}
            for (image, model), line in lines.items()
            for at, one in zip(distances, line, strict=True)
        ]
    ).sample(fraction=1, shuffle=True, seed=0)
    runs = wrong_intervals(rows)
    counts = {(one["image"], one["model"]): one for one in interval_counts(rows).to_dicts()}
    assert set(counts) == set(lines)
    for (image, model), line in lines.items():
        expected = scanned(line, distances, 0)
        assert runs.filter(image=image, model=model).select("first", "last", "points").rows() == expected
        ahead = [at for at, one in zip(distances, line, strict=True) if one and at >= 0]
        found = counts[image, model]
        assert found["intervals"] == len(expected)
        assert found["least"] == (ahead[0] if ahead else None)
        right = [at for at, one in zip(distances, line, strict=True) if not one and ahead and at > ahead[0]]
        assert found["returns"] == bool(right)
