"""A trained model used without training it: losses on held-out text, generated text.

Doors: `trained_model.plain_model`, `held_out.HeldOut`, `samples.Sampler/no_room`,
`evaluate.evaluate`, `generate.generate/whole`.
"""
