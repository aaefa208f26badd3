"""The mathematics: functions of arrays of any library. `derivation.md` has the equations."""
