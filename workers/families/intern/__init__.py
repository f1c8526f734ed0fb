"""InternVL3 and InternVL3.5: a plain vision transformer that sees an image in tiles, before a Qwen2 or Qwen3."""
