# Read behind llama.cpp's project(): the Python package turns this library on and never loads it.
set(LLAMA_BUILD_COMMON OFF)
