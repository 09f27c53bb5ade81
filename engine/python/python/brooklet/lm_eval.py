"""lm-evaluation-harness: brooklet as one of its models.

    python -m brooklet.lm_eval --model brooklet --model_args path=model.brk --tasks lambada_openai

takes the arguments of `lm_eval`, knows the model `brooklet`, and is the harness otherwise. The
harness has no way to find other packages' models by itself: `python -m brooklet.lm_eval --register`
tells this environment's once, then `lm_eval --model brooklet` works, too (`--unregister` takes it
back). In Python, `import brooklet.lm_eval` is enough for `simple_evaluate(model="brooklet", ...)`.

Contexts that begin alike are read once: requests go through in the order of their tokens, and the
states where they part are kept.
"""

from ._harness import BrookletLM, main

__all__ = ["BrookletLM", "main"]

if __name__ == "__main__":
    main()
