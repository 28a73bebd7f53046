"""Classifiers on disk: equal bits back, and damage refused."""

import copy
import json
import pickle

import pytest
import torch

from bayes_vio.classification import BayesianClassifier
from bayes_vio.classification.networks import mlp
from bayes_vio.classification.storage import ClassifierError
from tests.classification.blobs import METHODS, blobs, fitted, trained

X = blobs(20, 5)[0]


def network():
    return mlp(4, 3, (7,), seed=9)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_loaded_predicts_with_equal_bits(method, tmp_path):
    clf = fitted(method)
    clf.save(tmp_path / "c")
    clf.save(tmp_path / "c")
    model = network()
    before = model[0].weight.clone()
    loaded = BayesianClassifier.load(tmp_path / "c", model)
    ours, theirs = clf.predict(X), loaded.predict(X)
    for part in ("probs", "entropy", "mutual_information", "logits_mean", "logits_cov"):
        assert torch.equal(getattr(ours, part), getattr(theirs, part))
    assert loaded.nbytes == clf.nbytes
    assert loaded.method is clf.method
    assert torch.equal(model[0].weight, before)
    loaded.save(tmp_path / "again")
    for file in (tmp_path / "c").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_an_updated_classifier_is_stored_too(tmp_path):
    clf = BayesianClassifier(trained(), "diagonal").fit(blobs(90, 0)).update(blobs(30, 4))
    clf.save(tmp_path / "c")
    loaded = BayesianClassifier.load(tmp_path / "c", network())
    assert torch.equal(loaded.predict_proba(X), clf.predict_proba(X))
    assert loaded.posterior.n_data == 120


@pytest.mark.parametrize("method", ["inf", "diagonal"])
def test_eight_bits_are_stored_smaller_and_load_to_the_same_predictions(method, tmp_path):
    native = fitted(method)
    clf = native.with_number_format("float8")
    assert clf.posterior.nbytes < 0.6 * native.posterior.nbytes
    exact = native.predict(X).logits_cov
    assert torch.allclose(clf.predict(X).logits_cov, exact, rtol=0.1, atol=0.1 * exact.std())
    clf.save(tmp_path / "c")
    loaded = BayesianClassifier.load(tmp_path / "c", network())
    assert torch.equal(loaded.predict_proba(X), clf.predict_proba(X))
    assert loaded.nbytes == clf.nbytes


@pytest.mark.parametrize("method", ["kfac", "map", "ensemble"])
def test_other_methods_have_no_number_format(method):
    with pytest.raises(ValueError, match=r"no Laplace posterior|kept in the network's dtype"):
        fitted(method).with_number_format("bfloat16")


@pytest.mark.parametrize("method", ["temperature", "inf", "mean_field"])
def test_any_changed_byte_is_refused(method, tmp_path):
    fitted(method).save(tmp_path / "c")
    for file in sorted((tmp_path / "c").iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 40)):
            changed = bytearray(content)
            changed[place] ^= 0x21
            file.write_bytes(changed)
            with pytest.raises(ClassifierError):
                BayesianClassifier.load(tmp_path / "c", network())
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ClassifierError):
            BayesianClassifier.load(tmp_path / "c", network())
        file.write_bytes(content)
    BayesianClassifier.load(tmp_path / "c", network())


@pytest.mark.parametrize("method", ["map", "inf", "ensemble"])
def test_another_network_is_refused(method, tmp_path):
    fitted(method).save(tmp_path / "c")
    for other in (mlp(4, 3, (8,)), mlp(4, 3, (7, 7)), network().double()):
        with pytest.raises(ClassifierError):
            BayesianClassifier.load(tmp_path / "c", other)


def test_nothing_else_is_overwritten_or_read(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("years of work")
    with pytest.raises(ClassifierError, match="no classifier"):
        fitted("map").save(tmp_path / "c")
    with pytest.raises(ClassifierError, match="no whole classifier"):
        BayesianClassifier.load(tmp_path / "nothing", network())
    with pytest.raises(ValueError, match="not fitted"):
        BayesianClassifier(trained(), "map").save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    fitted("map").save(tmp_path / "m")
    description = json.loads((tmp_path / "m" / "classifier.json").read_text())
    assert description["method"] == "map"
    assert description["n_classes"] == 3


@pytest.mark.parametrize("method", ["map", "inf", "ella", "ensemble"])
def test_pickles_and_copies_predict_with_equal_bits(method):
    clf = fitted(method)
    for other in (pickle.loads(pickle.dumps(clf)), copy.deepcopy(clf), clf.to("cpu")):
        assert torch.equal(other.predict_proba(X), clf.predict_proba(X))
