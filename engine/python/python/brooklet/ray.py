"""Ray: data sets through brooklet on many processes and machines.

    python -m brooklet.ray prompts.jsonl texts.jsonl --model model.brk --workers 4

reads JSON lines or Parquet, writes the same, and can be called again after it was broken off. In
Python, `Generate`, `Score` and `Embed` are callable classes for `ray.data.Dataset.map_batches`:

    ds.map_batches(brooklet.ray.Generate, concurrency=4, fn_constructor_kwargs={"model": "m.brk"})

Workers of one machine map one file, whose pages they share; a checkpoint is converted once on each
machine. Texts do not depend on how rows are cut into batches, nor on who writes them.
"""

from ._ray_data import Embed, Generate, Score
from ._ray_job import main

__all__ = ["Embed", "Generate", "Score", "main"]

if __name__ == "__main__":
    main()
