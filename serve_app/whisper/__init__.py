"""Windows in, timed text out: model, rules, decoder, engine."""
