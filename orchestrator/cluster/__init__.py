"""Engines on Ray actors: joining, handing out work, losses and limits."""
