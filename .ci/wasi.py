#!/usr/bin/env python3
"""Runs a WASI program: wasi.py FOLDER FOLDER PROGRAM.wasm ARGUMENTS..., which sees those two folders alone."""

import sys

import wasmtime


def main() -> int:
    *folders, program = sys.argv[1:4]
    config = wasmtime.Config()
    config.cache = True
    engine = wasmtime.Engine(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    wasi = wasmtime.WasiConfig()
    wasi.argv = [program, *sys.argv[4:]]
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    for folder in folders:
        wasi.preopen_dir(folder, folder)
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, program))
    try:
        instance.exports(store)["_start"](store)
    except wasmtime.ExitTrap as ended:
        return ended.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
