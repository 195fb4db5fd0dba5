"""run.sh without a GPU: its time limit by real processes, its page, and the arithmetic of its parts."""

import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from model.attention import dense, visible
from tests.gpu import attention
from tests.gpu.budget import CUT, FAILED, FINISHED, NOT_REACHED, Part
from tests.gpu.kernel_groups import IDLE, OPTIMIZER, OTHER, Ran, by_group, group_of
from tests.gpu.page import NAMES, Page
from tests.gpu.parts import PARTS, carry_out
from tests.gpu.varlen import VarlenCall, varlen_calls, varlen_kernel
from tests.gpu.workloads import keys_seen
from tests.support.engine_cases import rows_of
from tests.support.fake_parts import broken, lost, quick, stuck
from tests.support.packed_rows import SHAPES, layout
from tests.support.sources import ROOT

COLUMNS = ("number", "what")


def part(work: Callable) -> Part:
    """A part of tests/support/fake_parts.py."""
    name = work.__name__
    return Part(name, f"Part {name}", "What it is about.", COLUMNS, f"{work.__module__}:{name}")


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_time_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that finished is on the page, of one that is cut its rows, and the rest by name."""
    page = Page(tmp_path, True, "A machine.")
    assert carry_out([part(quick)], time.monotonic() + 60, page) == 0
    assert carry_out([part(stuck), part(broken)], time.monotonic() + 3, page) == 3
    assert [one.state for one in page.outcomes.values()] == [FINISHED, CUT, NOT_REACHED]
    text = (tmp_path / NAMES[True]).read_text()
    assert (
        "## Part quick\n\nWhat it is about.\n\n| number | what |\n|---|---|\n| 1 | first |\n| 2 | second |\n"
        in text
    )
    assert (found := re.search(r"^\| (\d+) \| a process \|$", text, re.M))
    assert not alive(int(found[1])), "what a part started goes with it"
    assert "## Part broken" not in text
    assert "The time was up before: stuck (after 1 rows), broken." in text
    assert "stuck (after 1 rows), broken not reached" in capsys.readouterr().out


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    page = Page(tmp_path, False, "A machine.")
    assert carry_out([part(broken), part(lost), part(quick)], time.monotonic() + 60, page) == 1
    assert [one.state for one in page.outcomes.values()] == [FAILED, FAILED, FINISHED]
    text = (tmp_path / NAMES[False]).read_text()
    assert "`broken` failed after" in text
    assert "rows: 1 (ValueError: no luck)" in text
    assert "rows: 0 (exit code -9)" in text
    assert "| 2 | second |" in text


def test_the_script_says_what_it_did_not_reach(tmp_path: Path) -> None:
    """As it is typed, with hardly any time: exit code 3, and all parts by name, in their order."""
    environment = os.environ | {
        "OUT": str(tmp_path),
        "PYTHON": sys.executable,
        "WHEELS": str(tmp_path / "none"),
    }
    command = [str(ROOT / "tests/gpu/run.sh"), "--minutes", "0.001"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 3, ran.stderr
    names = "profile, step, mixed, attention, resume, layouts, tests"
    assert f"{names} not reached" in ran.stdout
    (page,) = tmp_path.glob("*.md")
    assert f"## Not reached\n\nThe time was up before: {names}.\n" in page.read_text()


def test_the_wheels_are_all_that_headrace_needs() -> None:
    """Beside torch, which is there, and wandb, which no part imports; each in a release that will do."""
    lines = (ROOT / "tests/gpu/wheels.txt").read_text().splitlines()
    carried = dict(line.split("==") for line in lines if not line.startswith("#"))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for one in map(Requirement, needed):
        if one.name not in ("torch", "wandb"):
            assert one.specifier.contains(carried[one.name]), one


def test_a_row_has_a_cell_for_each_column(tmp_path: Path) -> None:
    page = Page(tmp_path, True, "A machine.")
    page.begin(one := part(quick))
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        page.add(one, ["1"])


@pytest.mark.full
@pytest.mark.parametrize("one", PARTS, ids=lambda one: one.name)
def test_a_part_runs_on_a_cpu(tmp_path: Path, one: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its tiny size, or with words on why it needs CUDA."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    page = Page(tmp_path, False, "A CPU.")
    assert carry_out([one], time.monotonic() + 600, page) == 0, page.outcomes
    assert len(page.rows[one]) >= 2


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNN", "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x64>", "gemm"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "gemm"),
        ("triton_tem_fused_flex_attention_backward_1", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(...)", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3", "attention"),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", "copy"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::MulFunctor>", "elementwise and norm"),
        ("void (anonymous namespace)::cunn_SoftMaxForward<8, float>", "elementwise and norm"),
        ("triton_poi_fused_mul_silu_3", "elementwise and norm"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", OPTIMIZER),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "nccl"),
        ("void at::native::indexSelectLargeIndex<c10::BFloat16>", OTHER),
        ("aten::mm", "gemm"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::mul_", "elementwise and norm"),
        ("aten::copy_", "copy"),
        ("aten::_fused_adamw_", OPTIMIZER),
    ],
)
def test_kernels_by_name(name: str, group: str) -> None:
    assert group_of(name) == group


def test_what_runs_after_the_judgement_is_the_optimizers() -> None:
    ran = [Ran("aten::mul", 1, 5), Ran("aten::mm", 2, 7), Ran("aten::mul", 10, 3), Ran("aten::foo", 12, 1)]
    found = by_group(ran, judged=10)
    assert found == {"gemm": (7, 1), "elementwise and norm": (5, 1), OPTIMIZER: (4, 2)}
    assert IDLE not in found


def test_the_keys_that_positions_see() -> None:
    rows = rows_of(1, 6)
    start, bound = torch.from_numpy(rows.start), torch.from_numpy(rows.bound)
    pairs = int(visible(start, bound, rows.length).sum())
    assert keys_seen(rows) == pytest.approx(pairs / rows.tokens.size)


def plain_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: VarlenCall) -> torch.Tensor:
    """What FlashAttention's varlen kernels compute, one sequence after the other."""
    out = []
    ends = zip(call.query_ends.tolist(), call.query_ends[1:].tolist())
    for (first, end), key, last in zip(ends, call.key_ends.tolist(), call.key_ends[1:].tolist()):
        scores = torch.einsum("ihw,jhw->hij", q[first:end], k[key:last]) / q.shape[-1] ** 0.5
        n, m = scores.shape[1:]
        assert n <= call.most_queries
        assert m <= call.most_keys
        if call.causal:  # the last query over the last key
            scores = scores.masked_fill(~torch.ones(n, m, dtype=torch.bool).tril(m - n), -torch.inf)
        out.append(torch.einsum("hij,jhw->ihw", scores.softmax(-1), v[key:last]))
    return torch.cat(out)


SEGMENTS = [[(8, shape) for shape in SHAPES], [(32, "causal")], [(5, "full")] * 6 + [(2, "causal")]]


def windowed(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size=(-1, -1)):
    """torch's varlen_attn, as newer releases spell causal."""
    assert window_size in ((-1, -1), (-1, 0))
    return plain_varlen(q, k, v, VarlenCall(q, k, cu_q, cu_k, max_q, max_k, window_size == (-1, 0)))


def flagged(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False):
    """torch's varlen_attn, as older releases do."""
    return plain_varlen(q, k, v, VarlenCall(q, k, cu_q, cu_k, max_q, max_k, is_causal))


def flash_3_of_old(q, k, v, cu_q, cu_k, max_q, max_k, causal=False):
    """FlashAttention 3's, when it gave the sums as well."""
    return plain_varlen(q, k, v, VarlenCall(q, k, cu_q, cu_k, max_q, max_k, causal)), None


@pytest.mark.parametrize(
    ("make", "names", "library"),
    [
        (attention.torch_varlen, {"varlen_attn": windowed}, "torch.nn.attention.varlen"),
        (attention.torch_varlen, {"varlen_attn": flagged}, "torch.nn.attention.varlen"),
        (attention.flash_3, {"flash_attn_varlen_func": flash_3_of_old}, "flash_attn_interface"),
    ],
    ids=["torch, window_size", "torch, is_causal", "FA3"],
)
def test_libraries_are_called_as_they_are_spelled(
    make: attention.Made, names: dict, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries' own kernels need CUDA: here stand functions of the same arguments."""
    monkeypatch.setattr(attention, "GPU", True)
    monkeypatch.setitem(sys.modules, library, SimpleNamespace(**names))
    torch.manual_seed(0)
    tensors = [torch.randn(3, 32, 2, 8, requires_grad=i < 3) for i in range(4)]
    start, bound = layout(SEGMENTS, 32)
    found, expected = (attention.passes(one(start, bound), tensors) for one in (make, dense))
    assert attention.off(found, expected) < 1e-5


def test_two_varlen_calls_follow_the_rule() -> None:
    start, bound = layout(SEGMENTS, 32)
    assert [call.causal for call in varlen_calls(start, bound)] == [False, True]
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 32, 2, 8, dtype=torch.float64) for _ in range(3))
    found, expected = (
        varlen_kernel(plain_varlen, start, bound)(q, k, v, 0.0),
        dense(start, bound)(q, k, v, 0.0),
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_varlen_refuses_a_window() -> None:
    start = torch.zeros(1, 8, dtype=torch.int32)
    bound = torch.tensor([[0, 1, 2, 3, 3, 3, 6, 7]], dtype=torch.int32)
    with pytest.raises(ValueError, match="row 0, positions 0 to 8"):
        varlen_calls(start, bound)
