"""DeepSpeed's one home: a model made for its layout (`construct`), the engine around it (`start`) or around a
stage (`pipeline`), who its ranks are where some share blocks (`ranks`), the end of a step (`update`) and the
private names of its state (`zero_state`)."""
