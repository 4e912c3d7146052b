import { expect, test } from "vitest";
import { readsInput } from "./stream.ts";

test.each([
  ["sh", true],
  ["-bash", true],
  ["sh -i", true],
  ["bash --norc -i", true],
  ["sh -s argument", true],
  ["sh -is", true],
  ["sh -c true", false],
  ["sh -ec true", false],
  ["bash -lc true", false],
  ["sh script.sh", false],
  ["bash --norc script.sh", false],
  ["bash +x -c true", false],
])("`%s` reads its commands from its input: %s", (command, isRead) => {
  expect(readsInput(command.split(" ").map((word) => Buffer.from(word)))).toBe(isRead);
});
