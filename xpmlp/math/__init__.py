"""The mathematics: arrays in, arrays out, on whatever library holds them. `derivation.md` has the equations."""
