"""A stand-in for Paddle Lite's benchmark_bin on the loopback device: an x86-64 program whose inference is real.

No benchmark_bin for x86 is offered anywhere. This one takes the flags of 2.13, computes with the runtime of Paddle
Lite's wheel, and prints what the real one was seen to print. What is pushed is a program of 200 bytes that starts the
script beside this.
"""

import struct
from pathlib import Path

SCRIPT = Path(__file__).with_name("lite_tool_main.py")
# mov rdx,[rsp]; lea rsi,[rsp+8]; lea rdx,[rsi+rdx*8+8]; lea rdi,[rip+17]; mov eax,59; syscall (execve);
# mov edi,127; mov eax,60; syscall (exit); then the path
CODE = bytes.fromhex("488b1424 488d742408 488d54d608 488d3d13000000 b83b000000 0f05 bf7f000000 b83c000000 0f05")
BASE = 0x400000
HEADERS = 64 + 56


def make(folder: Path, python: str) -> Path:
    """The program, which starts the script under `python`, an interpreter that has paddlelite."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "main"
    script.write_text(f"#!{python}\n{SCRIPT.read_text()}")
    script.chmod(0o755)
    program = folder / "benchmark_bin"
    program.write_bytes(elf(CODE + str(script).encode() + b"\0"))
    return program


def elf(code: bytes) -> bytes:
    """A static executable of one segment that begins at its first byte."""
    size = HEADERS + len(code)
    ident = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 4096)
    return header + segment + code
