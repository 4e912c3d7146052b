import { testProgram } from "../sandbox/programs.ts";
import type { Sandbox, SandboxContainer } from "../sandbox/runc.ts";

/** Addresses that containers under measurement have on their loopback device. */
export const HOST = "203.0.113.5";
export const HOST6 = "2001:db8::5";
export const RESOLVER = "10.0.0.53";

const program = (name: Parameters<typeof testProgram>[0]) => ({ content: testProgram(name), mode: 0o755 });
const bundle = {
  "/opt/netprobe": program("netprobe"),
  "/opt/callprobe": program("callprobe"),
  "/opt/spawn": program("spawn"),
  "/opt/nothing": program("nothing"),
  "/opt/denied": program("nothing"),
  "/opt/waiting": program("netprobe"),
  "/opt/nmap": program("netprobe"),
  "/etc/denied": { content: "x", mode: 0o644 },
};

/** A container with the programs that make load. */
export async function startLoaded(sandbox: Sandbox, id: string): Promise<SandboxContainer> {
  const container = sandbox.start(id, {
    args: ["/bin/sleep", "3600"],
    programs: ["/bin/sleep", "/bin/sh", "/bin/mkdir"],
    files: bundle,
    capabilities: ["CAP_NET_RAW"],
  });
  await container.addAddresses(HOST, HOST6, RESOLVER);
  return container;
}
