/**
 * How the agent is run, by whoever starts it: it lives beside other work, so its memory counts. A small young generation
 * of V8, and two arenas of the C library instead of eight for each core: together some 25 MiB less.
 */
export const AGENT_RUNTIME = {
  flags: ["--max-semi-space-size=2"],
  env: { MALLOC_ARENA_MAX: "2" },
} as const;
