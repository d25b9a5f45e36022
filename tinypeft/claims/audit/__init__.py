"""The 233 claims, a file or several for each document; importing this enters them all."""
