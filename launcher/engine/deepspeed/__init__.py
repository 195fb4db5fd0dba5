"""DeepSpeed's one home: its start (`start`) and the private names of its state (`zero_state`)."""
