/**
 * Programs that detectors know by name. Matched with the base name of the real path, the name a program was run as and
 * the base name that its caller gave, in lower case.
 */

/** Programs that take commands from their standard input. Sources: Falco's `shell_binaries`, GTFOBins "shell". */
export const SHELLS: ReadonlySet<string> = new Set(
  ["ash", "bash", "csh", "dash", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "zsh"].concat([
    "busybox",
    "python",
    "python2",
    "python3",
    "perl",
    "ruby",
    "php",
    "node",
    "lua",
    "awk",
    "gawk",
  ]),
);

/** Programs that are many, told apart by the name that they are called by. */
export const MULTI_CALL: ReadonlySet<string> = new Set(["busybox", "toybox"]);

/**
 * Tools for looking around in networks, moving between machines and taking over containers. No service's own work needs
 * them; where one does, the detector takes an exception. Sources: Falco's `network_tool_binaries` and
 * `remote_file_copy_binaries`, the lists of lateral-movement tools that commercial products document.
 */
export const ATTACK_TOOLS: Readonly<Record<string, string>> = {
  nmap: "scans ports",
  masscan: "scans ports",
  zmap: "scans ports",
  rustscan: "scans ports",
  naabu: "scans ports",
  hping3: "crafts packets",
  arpspoof: "redirects traffic",
  ettercap: "redirects traffic",
  bettercap: "redirects traffic",
  responder: "redirects traffic",
  tcpdump: "captures traffic",
  tshark: "captures traffic",
  ngrep: "captures traffic",
  dsniff: "captures traffic",
  ssh: "logs in to other machines",
  sshpass: "logs in to other machines",
  scp: "copies to other machines",
  sftp: "copies to other machines",
  hydra: "guesses passwords",
  medusa: "guesses passwords",
  ncrack: "guesses passwords",
  john: "guesses passwords",
  hashcat: "guesses passwords",
  msfconsole: "exploits other machines",
  meterpreter: "exploits other machines",
  sqlmap: "exploits other machines",
  chisel: "tunnels traffic",
  ligolo: "tunnels traffic",
  frpc: "tunnels traffic",
  kubectl: "steers Kubernetes",
  docker: "steers the container runtime",
  crictl: "steers the container runtime",
  ctr: "steers the container runtime",
  nerdctl: "steers the container runtime",
  nsenter: "enters other namespaces",
  linpeas: "looks for ways to gain rights",
  amicontained: "looks for ways out of the container",
  deepce: "looks for ways out of the container",
  botb: "looks for ways out of the container",
  cdk: "looks for ways out of the container",
};

/** Names of mining programs. Source: Falco's `miner_binaries` and names used by known campaigns. */
export const MINERS: ReadonlySet<string> = new Set([
  "xmrig",
  "xmr-stak",
  "xmrigdaemon",
  "minerd",
  "cpuminer",
  "cgminer",
  "bfgminer",
  "ethminer",
  "nbminer",
  "t-rex",
  "lolminer",
  "phoenixminer",
  "srbminer-multi",
  "kinsing",
  "kdevtmpfsi",
]);

/** Arguments that only mining programs take. Source: Falco rule "Detect crypto miners using the Stratum protocol". */
export const MINER_ARGUMENTS: readonly RegExp[] = [
  /^stratum2?\+(tcp|ssl|tls|udp)s?:\/\//i,
  /^--?(url|o)=stratum/i,
  /^--donate-level(=|$)/,
  /^--(algo|coin)=?(randomx|rx\/\d|cn\/|cryptonight|monero)/i,
  /^--?nicehash$/,
];
