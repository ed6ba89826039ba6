"""The look at the kernels' machine code finds what it is made to find."""

import os
import re
from pathlib import Path

import check_cuda
import pytest
from check_cuda import Family, Kernel, check_family, local_memory, main, parse, without_wait

LISTING = """
Fatbin elf code:
================
arch = sm_80
code version = [1,7]

\tcode for sm_80
\t\tFunction : _ZN6pagoda4cuda23decode_attention_kernelE
\t.headerflags    @"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                  /* 0x00000a0000017a02 */
                                                                           /* 0x003fde0000000f00 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R3], [R4.64] ;  /* 0x0000000004037fae */
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R2, R8 ;    /* 0x000000020408723c */
\t\t..........
\t\tFunction : _ZN6pagoda4cuda11norm_kernelE
        /*0000*/              @UP2 LDG.E.NA.LTC128B.128.CONSTANT R4, [R2.64] ; /* 0x0 */
        /*0010*/                   EXIT ;                                  /* 0x000000000000794d */

Fatbin elf code:
================
arch = sm_90a
\t\tFunction : _ZN6pagoda4cuda23decode_attention_kernelE
        /*0000*/                   STL.64 [R1], R2 ;                       /* 0x0 */
        /*0010*/                   HMMA.16816.F32.BF16 R8, R4, R2, R8 ;    /* 0x0 */
"""


def test_a_listing_is_read_by_kernel_and_architecture() -> None:
    decode80, norm, decode90 = parse(LISTING)
    assert decode80 == Kernel(
        "_ZN6pagoda4cuda23decode_attention_kernelE",
        "sm_80",
        frozenset({"MOV", "LDGSTS.E.BYPASS.LTC128B.128", "HMMA.16816.F32.BF16"}),
    )
    assert (norm.architecture, norm.holds(check_cuda.LOAD_128), norm.holds(check_cuda.STORE_128)) == (
        "sm_80",
        True,
        False,
    )
    assert decode90.opcodes == {"STL.64", "HMMA.16816.F32.BF16"}


def test_local_memory_is_named_with_its_kernel() -> None:
    assert local_memory(parse(LISTING)) == ["_ZN6pagoda4cuda23decode_attention_kernelE for sm_90a uses local memory"]


def test_kernels_that_start_early_must_wait() -> None:
    kernels = [Kernel("old", "sm_80", frozenset()), Kernel("hasty", "sm_120", frozenset({"EXIT"}))]
    kernels.append(Kernel("right", "sm_90a", frozenset({"ACQBULK", "EXIT"})))
    assert without_wait(kernels) == ["hasty for sm_120 does not wait for the kernels in front of it"]


def test_a_family_must_hold_its_instructions_for_every_architecture() -> None:
    decode = Family("decode", "decode_attention", ("HMMA", "LDGSTS"))
    assert check_family(decode, parse(LISTING))[1] == ["decode, sm_90a: 0 of 1 kernels hold LDGSTS"]
    line, problems = check_family(Family("decode", "decode_attention", ("HMMA",)), parse(LISTING))
    assert problems == []
    assert line == "decode: 2 kernels for sm_80 sm_90a hold HMMA"


def test_one_kernel_is_enough_where_others_are_fallbacks() -> None:
    kernels = [
        Kernel("norm_kernel_8", "sm_80", frozenset({"LDG.E.128"})),
        Kernel("norm_kernel_1", "sm_80", frozenset({"LDG.E"})),
    ]
    wide = (check_cuda.LOAD_128,)
    assert check_family(Family("norm", "norm_kernel", wide, every=False), kernels)[1] == []
    assert len(check_family(Family("norm", "norm_kernel", wide), kernels)[1]) == 1


def test_a_family_without_kernels_or_for_another_architecture_is_wrong() -> None:
    assert check_family(Family("x", "no_such_kernel", ()), parse(LISTING))[1] == [
        "x: no kernel's name matches no_such_kernel"
    ]
    hopper = Family("decode", "decode_attention", (), architecture="sm_90a")
    assert check_family(hopper, parse(LISTING))[1] == ["decode: is for sm_90a only, but was built for sm_80, sm_90a"]


def test_every_source_with_a_named_family_exists() -> None:
    """A kernel that is renamed takes its family's pattern along."""
    root = Path(__file__).resolve().parents[2] / "cuda"
    sources = "\n".join(path.read_text() for path in root.iterdir() if path.suffix in (".cu", ".cuh"))
    missing = [family.name for family in check_cuda.FAMILIES if not re.search(family.kernel, sources)]
    assert missing == []


def test_without_the_tools_only_an_optional_check_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_cuda, "find_tools", lambda: None)
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path), "--optional"]) == 0
    assert capsys.readouterr().out.count("install nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm") == 2


def test_a_folder_without_kernels_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check_cuda, "find_tools", lambda: "/usr/bin")
    assert main([str(tmp_path)]) == 1


def test_objects_are_disassembled_and_problems_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tool in check_cuda.TOOLS:
        script = tmp_path / tool
        script.write_text(f"#!/bin/sh\ncat {tmp_path}/listing\n")
        script.chmod(0o755)
    (tmp_path / "listing").write_text(LISTING)
    (tmp_path / "build/cuda/x").mkdir(parents=True)
    (tmp_path / "build/cuda/x/a.cu.o").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(check_cuda, "FAMILIES", (Family("decode", "decode_attention", ("HMMA",)),))
    assert main([str(tmp_path / "build")]) == 1
    out = capsys.readouterr().out
    assert "decode: 2 kernels for sm_80 sm_90a hold HMMA" in out
    assert "wrong: _ZN6pagoda4cuda23decode_attention_kernelE for sm_90a uses local memory" in out
    assert "wrong: _ZN6pagoda4cuda23decode_attention_kernelE for sm_90a does not wait for the kernels" in out
