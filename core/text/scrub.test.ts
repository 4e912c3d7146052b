import { expect, test } from "vitest";
import { scrubArguments } from "./scrub.ts";

test.each<[string[], string[]]>([
  [
    ["mysql", "--password=hunter2", "-u", "root"],
    ["mysql", "--password=********", "-u", "root"],
  ],
  [
    ["curl", "-H", "Authorization: Bearer abc.def"],
    ["curl", "-H", "Authorization: Bearer ********"],
  ],
  [
    ["git", "clone", "https://ann:s3cret@host/x"],
    ["git", "clone", "https://ann:********@host/x"],
  ],
  [
    ["tool", "--api-key", "k-123", "file"],
    ["tool", "--api-key", "********", "file"],
  ],
  [
    ["tool", "--token", "--verbose"],
    ["tool", "--token", "--verbose"],
  ],
  [
    ["env", "AWS_SECRET_ACCESS_KEY=abc/def"],
    ["env", "AWS_SECRET_ACCESS_KEY=********"],
  ],
  [
    ["echo", "AKIAABCDEFGHIJKLMNOP"],
    ["echo", "********"],
  ],
  [
    ["ls", "-la", "/etc/passwd"],
    ["ls", "-la", "/etc/passwd"],
  ],
  [
    ["/bin/sh", "-c", "while true; do date; done"],
    ["/bin/sh", "-c", "while true; do date; done"],
  ],
])("%j becomes %j", (args, scrubbed) => {
  expect(scrubArguments(args)).toEqual(scrubbed);
});
