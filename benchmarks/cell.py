"""One measurement, in a process of its own: prints its figures as JSON."""

import json
import sys
from typing import TypedDict


class Request(TypedDict):
    """What the runner passes as the only argument."""

    contender: str
    workload: str
    parameters: dict[str, object]


def main() -> None:
    # Imported here: spawned workers import this module again, and are to stay as small as they are.
    import contenders
    import workloads
    from measure import Parameters

    request: Request = json.loads(sys.argv[1])
    contender = contenders.load(request["contender"])()
    parameters = Parameters(**request["parameters"])  # type: ignore[arg-type]
    print(json.dumps(workloads.load(request["workload"]).run(contender, parameters)))


if __name__ == "__main__":
    main()
