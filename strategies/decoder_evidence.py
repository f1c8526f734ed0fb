"""Evidence of the decoder beyond what ``TokenView`` names, of the layer where tokens are dropped: layer K.

V visual tokens that are still there, T tokens after the image, G key-value heads, E head width, D hidden width.
"""

from __future__ import annotations

LAYER_KEYS = "layer_keys"  # (V + T, G, E) keys of layer K-1, positions applied: of the visual tokens, then of the text
NORMED_STATES = "normed_states"  # (V + T, D) of the same tokens: what enters layer K, through the norm before the head
STATES_BEFORE = "states_before"  # (V, D) what entered layer K-1
TEXT_MASS = "text_mass"  # (T,) softmax over the text of the products of the decoder's input rows, mean over the image
POSITION_PULL = "position_pull"  # (T, V) scores of all-ones queries and keys in a layer, rotated to where they stand
