"""dermalert: the parts that train_hf.py puts together."""
