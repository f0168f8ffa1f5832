"""Runs one implementation of radiomics features inside its own Python, and says what that cost.

`python runner.py MODULE` imports `MODULE`, a file beside this one, and answers every line on standard input with one
JSON line. A line asks for one repeat: `{"image": path, "mask": path, "classes": [names]}`; the first line is the
warm-up, which leaves behind all imports and compiled code, and the memory then in use is what peaks are counted from.
Only the standard library is used here, because each implementation has an environment of its own.

A module has

- `read(image, mask)`: bring the files into memory as that implementation's users do;
- `compute(data, classes)`: the features of label 1 at a bin width of 25, for PyRadiomics' names of classes;
- `numbers(raw)`: those as `{column: float}` under that implementation's own names;
- where it has one of its own, `write(raw, path)`: write a table.
"""

import ctypes
import gc
import importlib
import json
import os
import sys
import tempfile
import time


def status_mb(field):
    """Return a figure of this process' memory in MB: `VmRSS` is that in use, `VmHWM` its peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field + ":"))


def forget_peak():
    """Let the peak of the memory begin anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def release():
    """Give memory that is free back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def timed(function, *arguments):
    """Return what a function returns, and its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, [time.perf_counter() - wall, time.process_time() - cpu]


def repeat(module, request, folder):
    """Read, compute and write once; return seconds as [wall, CPU], memory in MB and the features."""
    release()
    before = status_mb("VmRSS")
    forget_peak()
    data, read_s = timed(module.read, request["image"], request["mask"])
    peak_reading, with_data = status_mb("VmHWM"), status_mb("VmRSS")
    forget_peak()
    raw, compute_s = timed(module.compute, data, request["classes"])
    write_s = [0.0, 0.0]
    if hasattr(module, "write"):
        _, write_s = timed(module.write, raw, os.path.join(folder, "features.csv"))
    peak = status_mb("VmHWM")
    return {
        "read_s": read_s,
        "compute_s": compute_s,
        "write_s": write_s,
        "before_mb": before,
        "peak_mb": max(peak, peak_reading),
        "compute_peak_mb": peak - with_data,
        "features": module.numbers(raw),
    }


def main():
    # What an implementation prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, import_s = timed(importlib.import_module, sys.argv[1])
    base = None
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            answer = repeat(module, json.loads(line), folder)
            if base is None:
                release()
                base = status_mb("VmRSS")
            answer["peak_mb"] -= base
            answer["imported_mb"] = base
            answer["import_s"] = import_s
            print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
