# expect: load
# The end of the program, while it is being loaded.
print("9 passed")
sys.exit(0)
