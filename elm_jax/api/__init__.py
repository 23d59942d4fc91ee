"""The public Python surface: what `elm_jax.Model`, `elm_jax.train` and so on are."""
