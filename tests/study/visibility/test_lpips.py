"""LPIPS agrees with the package `lpips`, and stands beside the images that a run makes."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
import torch

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import candidates
from study.results.kept_images import deltas
from study.results.run_reader import open_run
from study.storage.run_folder import RunFolder
from study.visibility.lpips import check_file, load
from study.visibility.settings import SMALLEST, LpipsOptions
from tests.conftest import rows, run_here

package = pytest.importorskip("lpips", reason="lpips comes with the dev extra")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The package's network of a name with random weights, and the file of its state dict."""
    folder = tmp_path_factory.mktemp("lpips")

    def of(network):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = package.LPIPS(net=network, pnet_rand=True, verbose=False).eval()
        path = folder / f"{network}.pth"
        if not path.exists():
            torch.save(theirs.state_dict(), path)
        theirs.load_state_dict(torch.load(path, weights_only=True))
        return theirs, path

    return of


@pytest.mark.parametrize("network", sorted(SMALLEST))
def test_it_is_that_of_the_package(network, reference):
    theirs, path = reference(network)
    options = LpipsOptions(network=network, weights=f"file:{path}").with_digest()
    check_file(options)
    ours, generator = load(options, "cpu"), torch.Generator().manual_seed(0)
    for side in (SMALLEST[network], 65):
        clean = torch.randint(0, 256, (3, 3, side, side), generator=generator).float()
        noise = torch.randint(-16, 17, clean.shape, generator=generator)
        changed = (clean + noise).clamp(0, 255)
        with torch.no_grad():
            wanted = theirs(clean / 127.5 - 1, changed / 127.5 - 1).flatten()
            assert ours(clean, changed).tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
            assert ours(clean, clean).tolist() == [0, 0, 0]
            grey = clean[:, :1], changed[:, :1]
            wanted = theirs(*(one.expand(-1, 3, -1, -1) / 127.5 - 1 for one in grey)).flatten()
            assert ours(*grey).tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_files_that_do_not_fit(reference, tmp_path):
    _, path = reference("alex")
    with pytest.raises(StudyError, match="do not fit LPIPS with the network 'vgg'"):
        check_file(LpipsOptions(network="vgg", weights=f"file:{path}"))
    with pytest.raises(StudyError, match="does not exist"):
        LpipsOptions(weights=f"file:{tmp_path / 'none.pth'}").with_digest()
    with pytest.raises(StudyError, match="another SHA-256"):
        LpipsOptions(weights=f"file:{path}", sha256="0" * 64).with_digest()


def spec(path, network="alex", **more):
    return {
        "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 3},
        "visibility": {"lpips": {"network": network, "weights": f"file:{path}"}},
        "run": {"shard": 2, "keep_images": True},
        **more,
    }


def test_rows_have_it(reference, spec_file, tmp_path, door):
    theirs, path = reference("alex")
    file, run = spec_file(spec(path)), tmp_path / "run"
    status, printed = run_here(file, run)
    assert status == 0, printed
    one, found = open_run(str(run)), rows(run)
    clean = {
        each.image: decoding.read(each.file, one.spec.images) for each in candidates(one.spec.images, one.spec.seed)
    }
    alone = found.group_by("craft", "image").agg(pl.col("lpips").first(), pl.col("lpips").n_unique().alias("values"))
    assert alone["values"].unique().to_list() == [1], "one image has one distance"
    assert alone.height >= 6
    kept = deltas(RunFolder(str(run)), found["craft"].unique().to_list(), list(clean), 0)
    assert kept.height == alone.height
    for craft, image, _, delta in kept.iter_rows():
        before = clean[image][None]
        after = before + np.frombuffer(delta, np.uint8).reshape(before.shape)
        with torch.no_grad():
            wanted = theirs(*(torch.from_numpy(each).float() / 127.5 - 1 for each in (before, after))).item()
        assert alone.filter(craft=craft, image=image)["lpips"].item() == pytest.approx(wanted, abs=1.5e-5)
    status, printed, _ = door("show", str(run), "--visibility")
    assert status == 0
    assert "LPIPS" in printed
    status, printed = run_here(file, run)
    assert (status, "already complete" in printed) == (0, True)
    # The rows of a run have one network.
    other = reference("squeeze")[1]
    with pytest.raises(StudyError, match=r'visibility.lpips.network is "alex" there, and "squeeze" in this spec'):
        run_here(spec_file(spec(other, "squeeze"), "other.yaml"), run)


def test_images_that_are_too_small(reference, spec_file, tmp_path):
    small = {"images": {"sample": "foolbox", "size": 30, "keep": "all", "count": 3}}
    with pytest.raises(StudyError, match="needs images of at least 31 x 31 pixels, and these have 30 x 30") as refused:
        run_here(spec_file(spec(reference("alex")[1], **small)), tmp_path / "run")
    assert "visibility.lpips" in str(refused.value)
