"""More functions than a worker keeps."""

COUNT = 1100

for _number in range(COUNT):
    exec(f"def f{_number}(offset):\n    return {_number} + offset")
