"""On a GPU: fits, files and predictions stay there, and agree with the CPU's."""

import pytest
import torch

from bayes_vio.variational import VariationalPosterior
from tests.cases import classifier
from tests.variational_cases import FITS, fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("method", FITS)
def test_a_gpu_fit_predicts_there_and_as_on_the_cpu(method, tmp_path):
    case = classifier()
    posterior = fit(method, case, device="cuda", checkpoint=tmp_path / "c")
    p = posterior.predict(case.x.cuda())
    assert p.probs.device.type == "cuda"
    posterior.save(tmp_path / "p")
    loaded = VariationalPosterior.load(tmp_path / "p", case.model)
    torch.testing.assert_close(loaded.predict(case.x).probs, p.probs.cpu())
    torch.testing.assert_close(posterior.to("cpu").predict(case.x).probs, p.probs.cpu())
    with pytest.raises(ValueError, match="lies on cpu"):
        posterior.predict(case.x)
