/**
 * How many folders without a common shape make a family, by where they lie; the first that fits counts. The defaults of
 * Kubescape are 50 everywhere and 100 below `/etc`, which lets 101 files of `/etc` open all of it: where a new folder is a
 * matter of security there is no number at all.
 */
const PATH_CLASSES: readonly { readonly under: readonly string[]; readonly min: number }[] = [
  { under: ["/dev/shm", "/tmp", "/var/tmp"], min: 10 },
  {
    under: [
      ...["/etc", "/root", "/home", "/proc", "/sys", "/dev", "/boot", "/run/secrets", "/var/run/secrets"],
      ...["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr"],
    ],
    min: Number.POSITIVE_INFINITY,
  },
  { under: ["/run", "/var/run"], min: 20 },
  { under: ["/var/cache", "/var/lib", "/var/log", "/var/spool", "/srv", "/data", "/mnt"], min: 30 },
  { under: ["/"], min: 50 },
];
/** Folders of secrets, wherever they lie. */
const SECRET = /\/(\.ssh|\.gnupg|\.aws|\.kube|\.docker|\.config|secrets?)(\/|$)/;

function isUnder(path: string, folder: string): boolean {
  return folder === "/" || path === folder || path.startsWith(`${folder}/`);
}

/** What a path's place says about folding. */
export interface PathClass {
  /** Plain siblings that make a family; infinite where nothing ever does. */
  readonly min: number;
  /** First segments that never vary, the empty one before the first slash included. */
  readonly fixed: number;
}

const NEVER: PathClass = { min: Number.POSITIVE_INFINITY, fixed: 0 };

/** The class that a path is of. */
export function pathClass(path: string): PathClass {
  if (SECRET.test(path) || !path.startsWith("/")) return NEVER;
  for (const { under, min } of PATH_CLASSES) {
    const folder = under.find((each) => isUnder(path, each));
    if (folder !== undefined) return { min, fixed: folder === "/" ? 2 : folder.split("/").length };
  }
  return NEVER;
}

/** True where no path may be part of a family, whatever it looks like. */
export function isNeverFolded(path: string): boolean {
  return pathClass(path).min === Number.POSITIVE_INFINITY;
}
