"""How counts read in log lines and in the output of commands."""


def count(number: int, noun: str, spec: str = "d") -> str:
    """The number and the noun, such as "1 core" or "2 cores". `spec` formats the number: "," groups its thousands."""
    return f"{number:{spec}} {noun}{'s' * (number != 1)}"
