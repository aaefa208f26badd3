"""``xpmlp evaluate``, ``predict`` and ``compare``, as their users see them."""

import json
import re

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.commands import main
from xpmlp.data import idx, load_dataset
from xpmlp.models.model import load
from xpmlp.training.folder import RunFolder

TRAIN = ("train", "--backend", "numpy", "--hidden", "16,8", "--batch-size", "16", "--quiet", "--no-plot")


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XPMLP_DATA", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def run(idx_folder, at_home):
    """A run of three epochs, in the folder ``run``."""
    assert main([*TRAIN, "--dataset", f"idx:{idx_folder}", "--epochs", "3", "--out", "run"]) == 0
    return at_home / "run"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def refused(capfd):
    """Return a function that runs a command that is refused, and returns the one line that says why."""

    def refused(*arguments):
        capfd.readouterr()
        assert main(list(arguments)) == 2
        said, errors = capfd.readouterr()
        assert (said, errors.count("\n")) == ("", 1)
        return errors.removeprefix("xpmlp: ").removesuffix("\n")

    return refused


class TestEvaluate:
    def test_says_what_the_training_said_and_more(self, run, capsys):
        assert main(["evaluate", "run"]) == 0
        said, errors = capsys.readouterr()
        evaluation, summary = read(run / "evaluation.json"), read(run / "summary.json")
        assert errors == ""
        assert (evaluation["accuracy"], evaluation["images"]) == (summary["test_accuracy"], 60)
        assert evaluation["loss"] == pytest.approx(summary["test_loss"], rel=1e-6)
        assert 0 <= evaluation["calibration_error"] <= 1
        assert [line["class"] for line in evaluation["classes"]] == ["0", "1", "2"]
        assert np.sum(evaluation["confusion"]) == 60
        n_wrong = 60 - np.trace(evaluation["confusion"])
        assert len(evaluation["mistakes"]) == min(n_wrong, 30)
        assert f"{n_wrong} mistakes in 60 images" in said
        assert len(re.findall(r"^[012] +20 +[01]\.\d{4} +[01]\.\d{4} +[01]\.\d{4}$", said, re.M)) == 3
        assert "written  evaluation.json, confusion.png, mistakes.png in run" in said
        for picture in ("confusion.png", "mistakes.png"):
            assert (run / picture).read_bytes().startswith(b"\x89PNG")

    def test_names_the_mistakes(self, run, idx_folder, at_home):
        shuffled = make_dataset(60, seed=1)
        idx.write(idx_folder / "t10k-labels-idx1-ubyte", np.roll(shuffled.labels, 1))
        assert main(["evaluate", "run", "--out", "elsewhere"]) == 0
        evaluation = read(at_home / "elsewhere" / "evaluation.json")
        assert len(evaluation["mistakes"]) == 30
        probabilities = [mistake["probability"] for mistake in evaluation["mistakes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        first = evaluation["mistakes"][0]
        P = load("run", "numpy").predict_proba(shuffled.images[[first["image"]]])[0]
        assert (first["prediction"], first["probability"]) == (str(P.argmax()), pytest.approx(P.max()))
        assert first["label"] == str(np.roll(shuffled.labels, 1)[first["image"]])

    def test_where_all_is_right_draws_that_there_are_no_mistakes(self, idx_folder, at_home):
        assert main([*TRAIN, "--dataset", f"idx:{idx_folder}", "--epochs", "30", "--out", "run"]) == 0
        assert main(["evaluate", "run"]) == 0
        assert read(at_home / "run" / "evaluation.json")["mistakes"] == []
        assert (at_home / "run" / "mistakes.png").exists()

    def test_takes_a_models_file_alone_and_the_training_set(self, run, idx_folder, at_home, capsys):
        (at_home / "mine").mkdir()
        (run / "model.safetensors").rename(at_home / "mine" / "model.safetensors")
        assert main(["evaluate", "mine/model.safetensors", "--part", "train", "--no-plot"]) == 0
        assert "idx:" in capsys.readouterr().out
        assert {path.name for path in (at_home / "mine").iterdir()} == {"model.safetensors", "evaluation.json"}
        assert read(at_home / "mine" / "evaluation.json")["images"] == 240

    def test_takes_the_checkpoint_of_a_run_that_is_not_finished(self, run, capsys):
        (run / "model.safetensors").unlink()
        assert main(["evaluate", "run", "--no-plot"]) == 0
        assert "step-00000039.safetensors: 20-16-8-3" in (said := capsys.readouterr().out)
        assert "a checkpoint" in said
        assert (run / "evaluation.json").exists()

    @pytest.mark.parametrize("spec", ["cupy", "torch", "jax", "array-api-strict:device1"])
    @pytest.mark.needs("{spec}")
    @pytest.mark.long_on_jax
    def test_gives_the_same_on_every_backend(self, run, spec, find_backend):
        find_backend(spec)
        for backend in ("numpy", spec):
            assert (
                main(["evaluate", "run", "--backend", backend, "--no-plot", "--batch-size", "7", "--out", backend]) == 0
            )
        one, two = (read(run.parent / folder / "evaluation.json") for folder in ("numpy", spec))
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["confusion"] == one["confusion"]

    def test_refuses_data_that_does_not_fit(self, run, refused, idx_folder, tmp_path):
        assert "images of 8 × 8: the model takes images of 5 × 4" in refused("evaluate", "run", "--dataset", "digits")
        other = tmp_path / "other"
        other.mkdir()
        for part in ("train", "t10k"):
            data = make_dataset(60, n_classes=4)
            idx.write(other / f"{part}-images-idx3-ubyte", data.images)
            idx.write(other / f"{part}-labels-idx1-ubyte", data.labels)
        assert refused("evaluate", "run", "--dataset", f"idx:{other}").endswith("class 3: the network knows 0, 1, 2")

    def test_refuses_in_one_line(self, run, refused, at_home):
        (at_home / "empty").mkdir()
        (at_home / "text").write_text("words")
        assert (
            refused("evaluate", "nowhere")
            == "nowhere: no such file or folder; expected a run's folder or a model's file"
        )
        assert refused("evaluate", "text").startswith("text is no whole safetensors file (")
        assert refused("evaluate", "empty").startswith("empty is a folder without model.safetensors or checkpoints")
        assert refused("evaluate", "run", "--part", "dev") == "unknown part 'dev': expected test, train or all"
        assert refused("evaluate", "run", "--out", "text") == "--out 'text': expected a folder; name another"
        assert refused("evaluate", "run", "--backend", "cudy").startswith("unknown backend 'cudy'")
        assert refused("evaluate", "run", "--data-dir", ".").endswith("leave out the data folder .")
        assert not (run / "evaluation.json").exists()

    def test_of_several_models_gives_each_and_their_vote(self, run, idx_folder, at_home, capsys):
        for seed in ("1", "2"):
            arguments = ["--dataset", f"idx:{idx_folder}", "--epochs", "1", "--seed", seed, "--out", f"run{seed}"]
            assert main([*TRAIN, *arguments]) == 0
        names, test = ("run", "run1", "run2"), make_dataset(60, seed=1)
        before = {path: path.stat().st_mtime_ns for path in at_home.rglob("*")}
        assert main(["evaluate", *names]) == 0
        said, errors = capsys.readouterr()
        assert errors == ""
        assert {path: path.stat().st_mtime_ns for path in at_home.rglob("*")} == before, "nothing is written"
        P = np.mean([load(name, "numpy").predict_proba(test.images).astype(np.float64) for name in names], axis=0)
        right = int((P.argmax(axis=1) == test.labels).sum())
        assert "vote     the mean of 3 models' probabilities\n" in said
        assert f"accuracy {100 * right / 60:.2f} %, {60 - right} mistakes in 60 images\n" in said
        for name in names:
            single = read(at_home / name / "summary.json")
            shown = f"loss {single['test_loss']:.4f}, accuracy {100 * single['test_accuracy']:.2f} %"
            assert re.search(rf"model    {name}/model.safetensors: 20-16-8-3 of idx:.*\n +{shown}\n", said)

        assert main(["evaluate", *names, "--out", "vote"]) == 0
        pictures = {"confusion.png", "mistakes.png"}
        assert {path.name for path in (at_home / "vote").iterdir()} == {"evaluation.json", *pictures}
        evaluation = read(at_home / "vote" / "evaluation.json")
        assert evaluation["accuracy"] == right / 60
        assert evaluation["loss"] == pytest.approx(-np.log(P[np.arange(60), test.labels]).mean(), rel=1e-5)
        assert [model["model"] for model in evaluation["models"]] == [f"{name}/model.safetensors" for name in names]
        accuracies = [read(at_home / name / "summary.json")["test_accuracy"] for name in names]
        assert [model["accuracy"] for model in evaluation["models"]] == accuracies

    def test_a_vote_is_of_models_of_one_data_set_and_the_same_classes(self, run, refused, idx_folder, tmp_path):
        arguments = ["--epochs", "1", "--out"]
        assert main([*TRAIN, "--dataset", "digits", *arguments, "digits"]) == 0
        found = refused("evaluate", "run", "digits")
        assert found.endswith("and on digits: name one data set with --dataset")
        found = refused("evaluate", "run", "digits", "--dataset", f"idx:{idx_folder}")
        assert "images of 5 × 4: the model takes images of 8 × 8" in found
        four = tmp_path / "four"
        four.mkdir()
        for part, n in (("train", 240), ("t10k", 60)):
            data = make_dataset(n, n_classes=4)
            idx.write(four / f"{part}-images-idx3-ubyte", data.images)
            idx.write(four / f"{part}-labels-idx1-ubyte", data.labels)
        assert main([*TRAIN, "--dataset", f"idx:{four}", *arguments, "four"]) == 0
        found = refused("evaluate", "run", "four", "--dataset", f"idx:{idx_folder}")
        assert found.endswith("models of different classes have no vote; give them singly")

    def test_refuses_a_network_whose_outputs_are_not_finite(self, run, capfd):
        from xpmlp.models.model import write_model

        model = load("run", "numpy")
        write_model(run / "model.safetensors", model.theta * np.float32(1e30), model.info)
        assert main(["evaluate", "run"]) == 2
        problem = "the network's outputs are not finite: its parameters are too great or not finite"
        assert capfd.readouterr().err == f"xpmlp: run/model.safetensors: {problem}\n"


class TestPredict:
    @pytest.fixture
    def pictures(self, at_home):
        """Ten pictures of the model's size on a dark ground, bright where the test images of their classes are."""
        from PIL import Image

        folder = at_home / "pictures"
        folder.mkdir()
        data = make_dataset(10, seed=1)
        dark = np.zeros_like(data.images)
        dark[np.arange(10), data.labels, 1:3] = 200
        for k, image in enumerate(dark):
            Image.fromarray(image).save(folder / f"{k}.png")
        return dark

    @pytest.fixture
    def digits(self, at_home):
        """A run on the digits, whose pictures are of handwriting."""
        assert main([*TRAIN, "--dataset", "digits", "--hidden", "64", "--epochs", "15", "--out", "digits"]) == 0

    def page(self, n):
        """Draw n digits, the first ones of the digits' test set, large and dark on light."""
        from PIL import Image

        images = load_dataset("digits").test.images[:n] * np.uint8(15)
        large = [np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC)) for image in images]
        return Image.fromarray(255 - np.concatenate([np.pad(image, 32) for image in large], axis=1))

    def test_a_page_is_split_into_its_characters(self, digits, at_home, capsys):
        capsys.readouterr()
        self.page(4).save(at_home / "page.png")
        assert main(["predict", "digits", "page.png", "--split", "--top", "1"]) == 0
        found, _ = self.lines(capsys)
        assert [list(line) for line in found] == [["file", "box", "label", "probabilities"]] * 4
        for k, line in enumerate(found):
            left, top, right, bottom = line["box"]
            assert 160 * k < left < right < 160 * (k + 1)
            assert 0 < top < bottom < 160
        test = load_dataset("digits").test
        assert sum(line["label"] == str(label) for line, label in zip(found, test.labels[:4], strict=True)) >= 3

    def test_what_is_doubtful_is_said(self, digits, at_home, capsys):
        capsys.readouterr()
        self.page(2).save(at_home / "two.png")
        assert main(["predict", "digits", "two.png"]) == 0
        ((line,), _) = self.lines(capsys)
        assert list(line) == ["file", "warning", "label", "probabilities"]
        assert line["warning"] == "there seem to be 2 characters: expected one; --split reads several"

    def test_pictures_of_other_things_are_brought_to_the_models_size_and_range(self, run, pictures, at_home, capsys):
        from PIL import Image

        picture = Image.fromarray(pictures[3])
        picture.resize((40, 50), Image.Resampling.NEAREST).save(at_home / "large.png")
        Image.fromarray(pictures[3].astype(np.uint16) * 257).save(at_home / "deep.png")
        Image.fromarray(255 - pictures[3]).save(at_home / "inverted.png")
        picture.convert("RGB").save(at_home / "colour.png")
        assert main(["predict", "run", "pictures/3.png", "large.png", "deep.png", "colour.png"]) == 0
        assert main(["predict", "run", "inverted.png", "--invert"]) == 0
        first, large, *others = (line["probabilities"] for line in self.lines(capsys)[0])
        assert large == pytest.approx(first, abs=0.15)
        assert others == [pytest.approx(first, abs=1e-6)] * 3

    def test_a_way_that_the_model_does_not_take_is_refused(self, run, digits, pictures, refused):
        found = refused("predict", "run", "pictures", "--split")
        assert found.startswith("--split is for models of handwriting such as MNIST's: this one is of idx:")
        found = refused("predict", "digits", "pictures", "--invert")
        assert found.startswith("--invert: light is told from dark by itself; leave it out")

    def lines(self, capsys):
        said, errors = capsys.readouterr()
        return [json.loads(line) for line in said.splitlines()], errors

    def test_a_line_of_json_a_picture(self, run, pictures, capsys):
        assert main(["predict", "run", "pictures/3.png", "pictures/0.png"]) == 0
        found, errors = self.lines(capsys)
        assert errors == ""
        assert [line["file"] for line in found] == ["pictures/3.png", "pictures/0.png"]
        P = load("run", "numpy").predict_proba(pictures[[3, 0]])
        for line, probabilities in zip(found, P, strict=True):
            assert list(line) == ["file", "label", "probabilities"]
            assert line["probabilities"] == pytest.approx(dict(zip("012", probabilities.tolist(), strict=True)))
            assert line["label"] == str(probabilities.argmax())

    def test_a_folder_is_its_pictures_in_order(self, run, pictures, at_home, capsys):
        (at_home / "pictures" / "notes.txt").write_text("no picture")
        assert main(["predict", "run/model.safetensors", "pictures"]) == 0
        found, _ = self.lines(capsys)
        assert [line["file"] for line in found] == [f"pictures/{k}.png" for k in range(10)]

    @pytest.mark.parametrize("name", ["images", "images.gz"])
    def test_an_idx_file_is_its_images(self, run, at_home, capsys, name):
        images = make_dataset(300, seed=1).images  # more than one batch
        idx.write(at_home / name, images)
        assert main(["predict", "run", name]) == 0
        found, _ = self.lines(capsys)
        assert [(line["file"], line["index"]) for line in found] == [(name, k) for k in range(300)]
        assert [line["label"] for line in found] == [str(k) for k in load("run", "numpy").predict(images)]

    def test_only_the_most_probable_if_so_wished(self, run, pictures, capsys):
        assert main(["predict", "run", "pictures", "--top", "2"]) == 0
        for line in self.lines(capsys)[0]:
            probabilities = list(line["probabilities"].values())
            assert len(probabilities) == 2
            assert probabilities == sorted(probabilities, reverse=True)
            assert next(iter(line["probabilities"])) == line["label"]
        assert main(["predict", "run", "pictures/1.png", "--top", "9"]) == 0
        assert len(self.lines(capsys)[0][0]["probabilities"]) == 3

    def test_a_broken_picture_is_one_error_line_and_the_rest_go_on(self, run, pictures, at_home, capsys):
        (at_home / "pictures" / "4.png").write_bytes((at_home / "pictures" / "4.png").read_bytes()[:40])
        idx.write(at_home / "labels", np.zeros(3, np.uint8))
        (at_home / "empty").mkdir()
        assert main(["predict", "run", "pictures", "nowhere.png", "labels", "empty", "pictures/5.png"]) == 1
        found, errors = self.lines(capsys)
        assert [line["file"] for line in found] == [f"pictures/{k}.png" for k in (0, 1, 2, 3, 5, 6, 7, 8, 9, 5)]
        broken, nowhere, labels, empty = errors.splitlines()
        assert broken.startswith("xpmlp predict: pictures/4.png")
        assert nowhere.startswith("xpmlp predict: nowhere.png: No such file")
        assert (
            labels == "xpmlp predict: labels: an array of uint8, shape (3,): expected images, uint8 (n, height, width)"
        )
        assert empty.startswith("xpmlp predict: empty has no pictures: expected files that end in")

    def test_a_blank_page_is_an_error_that_names_the_file(self, digits, at_home, capsys):
        capsys.readouterr()
        from PIL import Image

        Image.new("L", (100, 100), 250).save(at_home / "blank.png")
        idx.write(at_home / "images", np.zeros((1, 30, 30), np.uint8))
        assert main(["predict", "digits", "blank.png", "images"]) == 1
        found, errors = self.lines(capsys)
        assert found == []
        blank, image = errors.splitlines()
        assert blank.startswith("xpmlp predict: blank.png: ")
        assert image.startswith("xpmlp predict: images, image 0: ")

    def test_a_model_that_is_not_there_is_refused(self, pictures, refused):
        assert refused("predict", "nowhere", "pictures").startswith("nowhere: no such file or folder; expected a run")
        assert refused("predict", "nowhere").startswith("xpmlp predict: Missing argument 'FILE...'")
        assert "0 is not in the range x>=1" in refused("predict", "nowhere", "pictures", "--top", "0")

    def test_values_beyond_the_models_are_refused(self, digits, at_home, capsys):
        idx.write(at_home / "images", np.full((2, 8, 8), 17, np.uint8))
        assert main(["predict", "digits", "images"]) == 1
        assert "images: values up to 17: the model's images go to 16" in capsys.readouterr().err


class TestCompare:
    def test_shows_several_runs_beside_each_other(self, run, idx_folder, at_home, capsys):
        other = [
            *TRAIN,
            "--dataset",
            f"idx:{idx_folder}",
            "--epochs",
            "2",
            "--out",
            "deep/other",
            "--optimizer",
            "adam",
        ]
        assert main([*other, "--hidden", "8"]) == 0
        capsys.readouterr()
        assert main(["compare", "run", "deep/other/"]) == 0
        head, one, two, picture = capsys.readouterr().out.splitlines()
        columns = re.split(" {2,}", head)
        assert columns[:6] == ["run", "network", "best validation", "test", "epochs", "seconds"]
        assert columns[6:] == ["optimizer", "learning rate", "momentum", "nesterov"]
        summary = read(run / "summary.json")
        row = re.split(" {2,}", one)
        assert row[:2] == ["run", "20-16-8-3"]
        assert row[2] == f"{summary['best_val_accuracy']:.4f} (epoch {summary['best_epoch']})"
        assert row[3] == f"{100 * summary['test_accuracy']:.2f} %"
        assert (row[4], row[6]) == ("3", "sgd")
        assert re.split(" {2,}", two)[:2] == ["other", "20-8-3"]
        assert picture == "picture  comparison.png"
        assert (at_home / "comparison.png").read_bytes().startswith(b"\x89PNG")

    def test_a_run_that_is_not_finished_is_compared_as_far_as_it_is(self, run, capsys):
        (run / "summary.json").unlink()
        text = (run / "metrics.jsonl").read_text()
        (run / "metrics.jsonl").write_text(text[: len(text) - 20])
        assert main(["compare", "run", "--out", "picture"]) == 0
        assert "2 of 3, not finished" in capsys.readouterr().out

    def test_a_run_without_validation_data_shows_its_training(self, idx_folder, at_home, capsys):
        assert main([*TRAIN, "--dataset", f"idx:{idx_folder}", "--epochs", "1", "--val-size", "0", "--out", "run"]) == 0
        assert main(["compare", "run"]) == 0
        assert re.split(" {2,}", capsys.readouterr().out.splitlines()[1])[2] == "–"

    def test_refuses_in_one_line(self, run, refused, at_home):
        (at_home / "empty").mkdir()
        assert refused("compare", "nowhere") == "nowhere is not there: expected a run's folder"
        assert refused("compare", "run/summary.json") == "run/summary.json is a file: expected a run's folder"
        assert refused("compare", "run", "empty").startswith("empty/config.json: No such file or directory")
        assert refused("compare", "run", "./run") == "run, ./run: a run is named twice: give each once"
        assert refused("compare", "run", "--out", ".").startswith("--out '.' is no name for a picture")
        assert refused("compare", "run", "--out", "no/x.png").startswith("--out 'no/x.png': there is no folder no")
        assert refused("compare").startswith("xpmlp compare: Missing argument 'RUN...'")
        (run / "metrics.jsonl").write_text("[]\n")
        assert refused("compare", "run") == "run/metrics.jsonl, line 1: expected an epoch's metrics, a JSON object"

    def test_runs_of_one_name_are_told_apart_by_their_paths(self, run, at_home, capsys):
        import shutil

        shutil.copytree(run, at_home / "old" / "run")
        assert main(["compare", "run", "old/run"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["run", "old/run"]

    def test_reads_a_run_that_is_being_written(self, run):
        folder = RunFolder.reopen(run)
        assert main(["compare", "run", "--no-plot"]) == 0
        folder.close()
