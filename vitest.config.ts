import { defineConfig } from "vitest/config";

/** Tests that need something of the machine run one file at a time: they share the kernel, ports and two cores. */
const alone = { fileParallelism: false, testTimeout: 60_000, hookTimeout: 120_000 };
const exclude = ["node_modules/**", ".cache/**"];

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["**/*.test.ts"],
          exclude: [...exclude, "**/*.integration.test.ts", "**/*.kernel.test.ts", "test/**"],
          // Tens of thousands of random cases take a slow machine more than the five seconds that are the default.
          testTimeout: 60_000,
        },
      },
      { test: { name: "integration", include: ["**/*.integration.test.ts"], exclude, ...alone } },
      { test: { name: "kernel", include: ["**/*.kernel.test.ts"], exclude, ...alone } },
      { test: { name: "e2e", include: ["test/**/*.e2e.test.ts"], exclude, ...alone, testTimeout: 180_000 } },
    ],
  },
});
