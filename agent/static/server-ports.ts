import type { ImageFiles } from "./image-files.ts";
import type { Words } from "./shell-scope.ts";

type AddPort = (transport: "tcp" | "udp", port: number, reason: string) => void;
/** Ports that a server will listen on, from its configuration and arguments. */
type Server = (image: ImageFiles, words: Words, add: AddPort) => void;

const CONFIG_MAX_BYTES = 256 * 1024;

interface Directives {
  readonly files: readonly string[];
  /** The port is the last group that matched. */
  readonly directive: RegExp;
  /** Port without any directive; left out where the configuration decides alone. */
  readonly fallback?: number;
  readonly options?: readonly string[];
  readonly transport?: "tcp" | "udp";
}

function optionPorts(words: Words, options: readonly string[]): number[] {
  return words.flatMap((word, at) => {
    if (word === undefined) return [];
    const option = options.find((each) => word === each || (each.startsWith("--") && word.startsWith(`${each}=`)));
    if (!option) return [];
    const value = word === option ? words[at + 1] : word.slice(option.length + 1);
    const port = /(\d+)$/.exec(value ?? "")?.[1];
    return port === undefined ? [] : [Number(port)];
  });
}

function isConfig(word: string | undefined): word is string {
  return word !== undefined && /^\/.*\.(conf|cfg|cnf|ini)$/.test(word);
}

/** What a file's lines say, with where. */
function configPorts(
  image: ImageFiles,
  path: string,
  directive: RegExp,
): { readonly port: number; readonly where: string }[] {
  const file = image.read(path, CONFIG_MAX_BYTES);
  const lines = file?.bytes.toString("utf8").split("\n") ?? [];
  return lines.flatMap((line, i) => {
    const port = directive.exec(line)?.at(-1);
    return port === undefined ? [] : [{ port: Number(port), where: `${file?.path}:${i + 1}` }];
  });
}

function byDirectives({ files, directive, fallback, options = [], transport = "tcp" }: Directives): Server {
  return (image, words, add) => {
    const given = optionPorts(words, options);
    for (const port of given) add(transport, port, "its arguments");
    if (given.length > 0) return;
    const known = files.flatMap((pattern) => (pattern.includes("*") ? image.glob(pattern) : [pattern]));
    const configs = new Set([...known, ...words.slice(1).filter(isConfig)]);
    const found = [...configs].flatMap((path) => configPorts(image, path, directive));
    for (const { port, where } of found) add(transport, port, where);
    if (found.length === 0 && fallback !== undefined) add(transport, fallback, "its default port");
  };
}

const apache = byDirectives({
  files: [
    "/etc/apache2/ports.conf",
    "/etc/apache2/sites-enabled/*",
    "/usr/local/apache2/conf/httpd.conf",
    "/etc/httpd/conf/httpd.conf",
  ],
  directive: /^\s*Listen\s+(?:\S*:)?(\d+)/i,
  fallback: 80,
});

/** Servers that many images run, by the name of their program. Defaults are those of each one's manual. */
export const SERVERS: Readonly<Record<string, Server>> = {
  nginx: byDirectives({
    files: ["/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*", "/etc/nginx/sites-enabled/*", "/etc/nginx/http.d/*"],
    directive: /^\s*listen\s+(?:\S*:)?(\d+)(?=[\s;])/,
    fallback: 80,
  }),
  apache2: apache,
  "apache2-foreground": apache,
  httpd: (image, words, add) => {
    // busybox has a server of the same name, which is told its port.
    const isApache =
      image.realPath("/usr/local/apache2/conf/httpd.conf") !== undefined || image.realPath("/etc/httpd") !== undefined;
    const given = optionPorts(words, ["-p"]);
    for (const port of given) add("tcp", port, "its arguments");
    if (isApache) apache(image, words, add);
    else if (given.length === 0) add("tcp", 80, "its default port");
  },
  lighttpd: byDirectives({
    files: ["/etc/lighttpd/lighttpd.conf"],
    directive: /^\s*server\.port\s*=\s*(\d+)/,
    fallback: 80,
  }),
  haproxy: byDirectives({
    files: ["/usr/local/etc/haproxy/haproxy.cfg", "/etc/haproxy/haproxy.cfg"],
    directive: /^\s*bind\s+\S*:(\d+)/,
  }),
  "redis-server": byDirectives({
    files: ["/etc/redis/redis.conf", "/usr/local/etc/redis/redis.conf"],
    directive: /^\s*port\s+(\d+)/,
    fallback: 6379,
    options: ["--port"],
  }),
  "valkey-server": byDirectives({
    files: ["/etc/valkey/valkey.conf"],
    directive: /^\s*port\s+(\d+)/,
    fallback: 6379,
    options: ["--port"],
  }),
  postgres: byDirectives({
    files: ["/var/lib/postgresql/data/postgresql.conf"],
    directive: /^\s*port\s*=\s*(\d+)/,
    fallback: 5432,
    options: ["-p", "--port"],
  }),
  mysqld: byDirectives({
    files: ["/etc/my.cnf", "/etc/mysql/my.cnf", "/etc/mysql/conf.d/*"],
    directive: /^\s*port\s*=\s*(\d+)/,
    fallback: 3306,
    options: ["--port", "-P"],
  }),
  mariadbd: byDirectives({
    files: ["/etc/mysql/my.cnf", "/etc/mysql/conf.d/*", "/etc/mysql/mariadb.conf.d/*"],
    directive: /^\s*port\s*=\s*(\d+)/,
    fallback: 3306,
    options: ["--port", "-P"],
  }),
  mongod: byDirectives({
    files: ["/etc/mongod.conf"],
    directive: /^\s*port:\s*(\d+)/,
    fallback: 27017,
    options: ["--port"],
  }),
  memcached: byDirectives({ files: [], directive: /$^/, fallback: 11211, options: ["-p", "--port"] }),
  sshd: byDirectives({
    files: ["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*"],
    directive: /^\s*Port\s+(\d+)/i,
    fallback: 22,
    options: ["-p"],
  }),
  "php-fpm": byDirectives({
    files: ["/usr/local/etc/php-fpm.d/*", "/etc/php/*/fpm/pool.d/*"],
    directive: /^\s*listen\s*=\s*(?:\S*:)?(\d+)\s*$/,
    fallback: 9000,
  }),
  "rabbitmq-server": byDirectives({
    files: ["/etc/rabbitmq/rabbitmq.conf"],
    directive: /^\s*listeners\.tcp\.\w+\s*=\s*(\d+)/,
    fallback: 5672,
  }),
  "nats-server": byDirectives({
    files: [],
    directive: /^\s*(?:port|listen)\s*[:=]\s*"?(?:\S*:)?(\d+)/,
    fallback: 4222,
    options: ["-p", "--port"],
  }),
  unbound: byDirectives({
    files: ["/etc/unbound/unbound.conf"],
    directive: /^\s*port:\s*(\d+)/,
    fallback: 53,
    transport: "udp",
  }),
  named: byDirectives({
    files: ["/etc/bind/named.conf.options"],
    directive: /^\s*listen-on\s+port\s+(\d+)/,
    fallback: 53,
    transport: "udp",
    options: ["-p"],
  }),
  dnsmasq: byDirectives({
    files: ["/etc/dnsmasq.conf"],
    directive: /^\s*port=(\d+)/,
    fallback: 53,
    transport: "udp",
    options: ["--port", "-p"],
  }),
};
