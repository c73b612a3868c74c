"""Poses as benchmark_bin of Paddle Lite 2.13; started by the program of lite_tool.py, under the home's Python."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FLAGS = {
    "optimized_model_file": "",
    "input_shape": "",
    "input_data_path": "",
    "output_data_path": "",
    "threads": "1",
    "power_mode": "0",
    "warmup": "0",
    "repeats": "1",
    "result_path": "",
    "backend": "",
}
#: what a build for Android says of the phone, by its properties
PHONE = {
    "Brand": "ro.product.brand",
    "Device": "ro.product.device",
    "Model": "ro.product.model",
    "Android Version": "ro.build.version.release",
    "Android API Level": "ro.build.version.sdk",
}


def flags():
    given = dict(FLAGS)
    for word in sys.argv[1:]:
        name, _, value = word.lstrip("-").partition("=")
        if name == "help":
            print("\n".join(f'    -{flag} (…) type: string default: "{default}"' for flag, default in FLAGS.items()))
            sys.exit(1)
        if name == "version":
            print("benchmark_bin version v2.13-stand-in")
            sys.exit(0)
        if name not in FLAGS:
            print(f"ERROR: unknown command line flag '{name}'", file=sys.stderr)
            sys.exit(1)
        given[name] = value
    return given


def main():
    given = flags()
    if not Path(given["optimized_model_file"]).is_file():
        print(f"Mode file[{given['optimized_model_file']}] not exist!", file=sys.stderr, flush=True)
        os.abort()
    import numpy as np
    import paddlelite
    from paddlelite import lite

    start = time.perf_counter()
    config = lite.MobileConfig()
    config.set_model_from_file(given["optimized_model_file"])
    predictor = lite.create_paddle_predictor(config)
    init_ms = (time.perf_counter() - start) * 1e3
    libraries = Path(paddlelite.__file__).parent / "libs"
    ctypes.CDLL(str(libraries / "libiomp5.so")).omp_set_num_threads(int(given["threads"]))
    ctypes.CDLL(str(libraries / "libmklml_intel.so")).MKL_Set_Num_Threads(int(given["threads"]))
    shape = [int(size) for size in given["input_shape"].split(",")]
    path = given["input_data_path"]
    values = np.loadtxt(path, np.float32).ravel() if path else np.ones(shape, np.float32)
    predictor.get_input(0).from_numpy(values.reshape(shape))
    times_ms = []
    for _ in range(int(given["warmup"]) + int(given["repeats"])):
        start = time.perf_counter()
        predictor.run()
        times_ms.append((time.perf_counter() - start) * 1e3)
    output = predictor.get_output(0).numpy()
    if given["output_data_path"]:
        np.savetxt(given["output_data_path"], output.ravel(), fmt="%.9g")
    text = report(given, output, init_ms, times_ms)
    if given["result_path"]:
        Path(given["result_path"]).write_text(text)
    print(text)


def device_info():
    """Of a phone; builds for other systems don't say."""
    if not shutil.which("getprop"):
        return []
    told = {
        name: subprocess.run(["getprop", key], capture_output=True, text=True, check=True).stdout.strip()
        for name, key in PHONE.items()
    }
    return ["", "======= Device Info =======", *(f"{name}: {value}" for name, value in told.items())]


def report(given, output, init_ms, times_ms):
    counted = times_ms[int(given["warmup"]) :]
    times = {
        "init": init_ms,
        "first": times_ms[0],
        "min": min(counted),
        "max": max(counted),
        "avg": sum(counted) / len(counted),
    }
    lines = [
        *device_info(),
        "",
        "======= Model Info =======",
        f"optimized_model_file: {given['optimized_model_file']}",
        f"input_data_path: {given['input_data_path'] or 'All 1.f'}",
        f"input_shape: {given['input_shape']}",
        "output tensor num: 1",
        "--- output tensor 0 ---",
        "output shape(NCHW): " + "".join(f"{size} " for size in output.shape),
        f"output tensor 0 elem num: {output.size}",
        f"output tensor 0 mean value: {output.mean():.6g}",
        f"output tensor 0 standard deviation: {output.std():.6g}",
        "",
        "======= Runtime Info =======",
        "benchmark_bin version: v2.13-stand-in",
        *(f"{name}: {given[name]}" for name in ("threads", "power_mode", "warmup", "repeats", "result_path")),
        "",
        "======= Backend Info =======",
        f"backend: {given['backend']}",
        "cpu precision: fp32",
        "",
        "======= Perf Info =======",
        "Time(unit: ms):",
        *(f"{name:<6}= {f'{value:.3f}':<12}" for name, value in times.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
