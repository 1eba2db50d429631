# SPDX-License-Identifier: MIT
"""Runs what is in tests.py on two machines: a line for each, what it printed if it failed, and a
count in the end."""
import time

import machine


class Runner:
    def __init__(self, machines, environment):
        self.machines = machines
        self.environment = environment
        self.begun = time.monotonic()
        self.passed = 0
        self.failed = []  # their names

    def start(self, one, command):
        """Start a command in a machine; gives the list that gets what it prints."""
        output = []
        one.show = output.append
        one.start(command, self.environment)
        return output

    def end(self, one, seconds=30):
        """End what still runs there."""
        if not one.dead and one.status is None:
            one.kill_command()
            machine.wait([one], lambda: one.status is not None, seconds, f"{one.name}: killing")

    def told(self, name, begun, why, **outputs):
        """Say how a test ended; `why` is empty if it was well."""
        self.passed += not why
        self.failed += [name] if why else []
        print(f"{'FAILED' if why else 'passed'} {name}, {time.monotonic() - begun:.1f} s"
              f"{': ' + why if why else ''}", flush=True)
        for who, output in outputs.items():
            text = b"".join(output).decode(errors="replace").strip()
            if text and (why or who == "figures"):
                print("\n".join(f"    {who} | {line}" for line in text.splitlines()[-60:]),
                      flush=True)

    def run_ones(self, tests):
        """Each test in whichever machine is idle."""
        left = list(tests)
        running = {}  # machine: (test, when it began, its output)
        while left or running:
            for one in self.machines:
                if one not in running and left:
                    test = left.pop(0)
                    running[one] = test, time.monotonic(), self.start(one, test.command)

            def is_over(one):
                test, begun, _ = running[one]
                return one.status is not None or time.monotonic() - begun > test.seconds

            try:
                machine.wait(self.machines, lambda: any(map(is_over, running)), 3600, "tests")
            except machine.Broken as broken:
                names = ", ".join(f"{test[0].name} in {one.name}" for one, test in running.items())
                raise machine.Broken(f"{broken}; there ran {names}") from broken
            for one in [one for one in running if is_over(one)]:
                test, begun, output = running.pop(one)
                why = self.why_not(one, test)
                self.end(one)
                self.told(test.name, begun, why, output=output)

    @staticmethod
    def why_not(one, test):
        if one.status is None:
            return f"not within {test.seconds} seconds"
        return f"exit status {one.status}" if one.status else ""

    def run_two(self, test):
        server, client = self.machines
        begun = time.monotonic()
        outputs = {"server": self.start(server, test.server), "client": []}

        def until(is_over, seconds=None):
            """Whether it was before the test's time is up."""
            end = time.monotonic() + seconds if seconds else begun + test.seconds
            machine.wait(self.machines, lambda: is_over() or time.monotonic() > end, 3600,
                         test.name)
            return is_over()

        def has_printed(who, text):
            return lambda: text.encode() in b"".join(outputs[who])

        why = ""
        if test.ready and not until(has_printed("server", test.ready)):
            why = "the server is not ready"
        else:
            outputs["client"] = self.start(client, test.client)
            if test.happens:
                until(lambda: has_printed("client", "filled")() or client.status is not None)
                if client.status is None:
                    test.happens(server, client, lambda seconds: until(lambda: False, seconds))
            until(lambda: client.status is not None)
            why = self.why_not(client, test)
        self.end(client)
        self.end(server)
        if not server.dead:
            server.plug(True)
        figures = outputs["client"] if test.happens and not why else []
        self.told(test.name, begun, why, figures=figures, **outputs)

    def run(self, ones, twos):
        """Everything; the exit status."""
        self.run_ones(ones)
        for test in twos:
            if self.machines[0].dead:
                raise machine.Broken(f"{test.name} comes after one whose server's machine dies")
            self.run_two(test)
        print(f"{self.passed} passed, {len(self.failed)} failed in "
              f"{time.monotonic() - self.begun:.0f} s{': ' if self.failed else ''}"
              f"{', '.join(self.failed)}", flush=True)
        return 1 if self.failed or not self.passed else 0
