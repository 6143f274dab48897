"""A picture of a fingerprint, as `ssh-keygen -lv` and VisualHostKey draw it.

The walk is the one of "The drunken bishop" (Loss, Limmer, von Gernler, 2009): people notice another
picture sooner than another row of letters.
"""

from sshoq.auth.keys import PublicKey

WIDTH, HEIGHT = 17, 9
SHADES = " .o+=*BOX@%&#/^"  # by the number of visits; the last one stands for all above
START, END = "S", "E"


def draw_randomart(key: PublicKey, hash_name: str = "sha256") -> str:
    """The framed picture, eleven lines without a final newline."""
    title = f"[{key.kind.name} {key.bits}]"
    if len(title) > WIDTH - 1:
        title = f"[{key.kind.name}]"
    rows = _paint(key.digest(hash_name))
    return "\n".join(
        [_border(title), *(f"|{row}|" for row in rows), _border(f"[{hash_name.upper()}]")]
    )


def _paint(digest: bytes) -> list[str]:
    visits = [[0] * WIDTH for _ in range(HEIGHT)]
    x, y = WIDTH // 2, HEIGHT // 2
    for step in _steps(digest):
        x = min(max(x + (1 if step & 1 else -1), 0), WIDTH - 1)
        y = min(max(y + (1 if step & 2 else -1), 0), HEIGHT - 1)
        visits[y][x] += 1
    field = [[SHADES[min(count, len(SHADES) - 1)] for count in row] for row in visits]
    field[HEIGHT // 2][WIDTH // 2] = START
    field[y][x] = END
    return ["".join(row) for row in field]


def _steps(digest: bytes) -> list[int]:
    """Two bits a step, from the low end of each byte."""
    return [byte >> shift & 3 for byte in digest for shift in (0, 2, 4, 6)]


def _border(label: str) -> str:
    left = (WIDTH - len(label)) // 2
    return f"+{'-' * left}{label}{'-' * (WIDTH - len(label) - left)}+"
