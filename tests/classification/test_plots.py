"""Figures hold what they were given."""

import numpy as np
import pytest
import torch

from bayes_vio.classification import plots
from bayes_vio.classification.detection import sparsification
from bayes_vio.classification.metrics import reliability
from bayes_vio.classification.weight_variance import marginal_variances, mean_shares
from tests.classification.blobs import blobs, fitted

TEST = blobs(60, 2)


def test_reliability_curves():
    diagram = reliability(fitted("inf").predict_proba(TEST[0]), TEST[1])
    figure = plots.plot_reliability({"inf": diagram, "map": diagram})
    curve = figure.axes[0].get_lines()[1]
    filled = diagram.count > 0
    assert np.array_equal(curve.get_xdata(), diagram.confidence[filled])
    assert np.array_equal(curve.get_ydata(), diagram.accuracy[filled])
    assert figure.axes[1].get_title().startswith("map")
    figure.canvas.draw()


def test_entropy_curves_by_method_and_set():
    inside, outside = (fitted("inf").predict(scale * TEST[0]).entropy for scale in (1, 0.1))
    figure = plots.plot_entropies({"inf": {"in": inside, "out": outside}}, 3)
    top, bottom = figure.axes
    assert [line.get_label() for line in bottom.get_lines()] == ["in", "out"]
    assert bottom.get_lines()[1].get_ydata()[20] > bottom.get_lines()[0].get_ydata()[20]
    assert top.get_title() == "inf"
    figure.canvas.draw()


def test_sparsification_curves():
    p = fitted("inf").predict(TEST[0])
    curve = sparsification(p.entropy, (p.probs.argmax(1) != TEST[1]).double())
    figure = plots.plot_sparsification({"inf": curve})
    assert np.array_equal(figure.axes[0].get_lines()[0].get_ydata(), curve.kept_error)
    figure.canvas.draw()


def test_where_the_uncertainty_is():
    posterior = fitted("inf").posterior
    shares = mean_shares(posterior, {"in": TEST[0], "out": 5 * TEST[0]})
    figure = plots.plot_layer_shares(shares)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([s for by_layer in shares.values() for s in by_layer.values()])
    variances = marginal_variances(posterior)
    pictures = plots.plot_weight_stds(variances)
    image = pictures.axes[0].get_images()[0].get_array()
    assert torch.equal(torch.tensor(np.asarray(image)), variances["0"].sqrt())
    figure.canvas.draw()
    pictures.canvas.draw()
    with pytest.raises(ValueError, match="nothing to plot"):
        plots.plot_reliability({})
