"""The input normalisation of the weights is stored in checkpoints and loaded from them."""

from dataclasses import replace

import pytest
import torch

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset, tracklets_digest
from amem_cli.errors import UsageError
from amem_cli.models.amem import build_amem
from amem_cli.models.checkpoints import load_amem, load_main_model, main_file, save_amem
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.progress import Progress
from amem_cli.stages.train_amem.inputs import refuse_other_split, warn_about_tae
from amem_cli.weights.normalisation import HARA_2020, IMAGENET, Normalisation

CONFIG = model_config(TrainAmemOptions(modules="baseline", image_size="32x32"), people=3)


@pytest.mark.usefixtures("tiny_backbone")
def test_normalisation_is_stored_with_the_weights(tmp_path):
    amem = build_amem(CONFIG).eval()
    assert amem.main.backbone.normalisation == IMAGENET  # the network's own
    amem.main.backbone.normalisation = HARA_2020
    path = tmp_path / "amem.safetensors"
    save_amem(path, amem, None, CONFIG, Provenance("train-amem", {}), {})
    clip = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        expected = amem.main(clip)
        main, config = load_main_model(main_file(path))
        assert torch.equal(main.eval()(clip), expected)
        main.backbone.normalisation = IMAGENET
        assert not torch.allclose(main(clip), expected)
        assert torch.equal(load_amem(path)[0].main(clip), expected)
    assert config.normalisation == HARA_2020


def drawn_splits(tmp_path):
    """A data set of three people, its splits 0 to 2 with the same people and 3 with others."""
    one, two, three = (Tracklet(f"{n}/1", n, 1, str(tmp_path), ("1.png",)) for n in (1, 2, 3))
    splits = [((one, two), (three,)), ((two, one), (three,)), ((one, two), (three,)), ((one, three), (two,))]
    splits = [Split(train, test, (True,), "drawn") for train, test in splits]
    return VideoDataset("ilids-vid", tuple(splits), numbered=True)


def test_refuse_other_split(tmp_path):
    dataset, progress = drawn_splits(tmp_path), Progress(quiet=True)
    data = tracklets_digest(dataset.splits[0].train)

    def weights(name, data):
        provenance = Provenance("train-amem", {"dataset": "ilids-vid", "split": 0}, data=data)
        return str(checkpoint.save(tmp_path / name, "amem-main", {"x": torch.zeros(1)}, provenance))

    known, unknown = weights("known.safetensors", data), weights("unknown.safetensors", "of other images")
    for number in (0, 1, 2):  # the same people
        refuse_other_split(known, dataset, number, progress)
    with pytest.raises(UsageError, match="trained on split 0 of ilids-vid, with 1 test people of split 3"):
        refuse_other_split(known, dataset, 3, progress)
    with pytest.raises(UsageError, match="perhaps with test people of split 1"):
        refuse_other_split(unknown, dataset, 1, progress)
    assert progress.warnings == []
    refuse_other_split(unknown, dataset, 0, progress)
    assert "their people may be test people here" in progress.warnings[0]
    refuse_other_split(known, replace(dataset, name="prid2011"), 3, progress)
    (tmp_path / "other.pt").write_bytes(b"weights of another program")
    for name in ("", "kinetics", str(tmp_path / "other.pt"), str(tmp_path / "none.pt")):
        refuse_other_split(name, dataset, 3, progress)
    assert len(progress.warnings) == 1


@pytest.mark.parametrize(
    ("recorded", "numbers", "warning"),
    [
        ({"dataset": "ilids-vid", "split": 0}, [0, 1, 3], ["trained on split 0, on images of test people of split 3"]),
        ({"dataset": "ilids-vid", "split": 0}, [0, 1], []),
        ({"dataset": "ilids-vid", "split": 7}, [3], []),
        ({"dataset": "market1501"}, [3], []),
    ],
)
def test_tae_of_test_people(tmp_path, recorded, numbers, warning):
    path = checkpoint.save(tmp_path / "tae", "amem-tae", {"x": torch.zeros(1)}, Provenance("train-tae", recorded))
    progress = Progress(quiet=True)
    warn_about_tae(TrainAmemOptions(modules="mem", tae=str(path)), drawn_splits(tmp_path), numbers, progress)
    warn_about_tae(TrainAmemOptions(modules="aem", tae=str(path)), drawn_splits(tmp_path), numbers, progress)
    assert len(progress.warnings) == len(warning)
    assert all(text in found for text, found in zip(warning, progress.warnings, strict=True))


def test_normalisation_refuses():
    for mean, std in (((0.5, 0.5), (1.0,) * 3), ((0.5,) * 3, (1.0, 0.0, 1.0)), ((0.5,) * 3, (float("nan"),) * 3)):
        with pytest.raises(ValueError, match=r"number|positive"):
            Normalisation(mean, std)
