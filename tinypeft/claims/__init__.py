"""The claims of four documents on PEFT, recomputed; worked examples, practice and a quiz."""
