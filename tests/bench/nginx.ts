import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface Nginx {
  /** Answers `tools/call` itself, by size; everything else goes to the discovery upstream. */
  readonly upstream: URL;
  /** `proxy_pass` to the upstream with keep-alive: the reference. */
  readonly proxy: URL;
  /** The proxy's master process; the work is done by its child. */
  readonly proxyPid: number;
  stop(): Promise<void>;
}

export interface NginxOptions {
  readonly directory: string;
  readonly upstreamPort: number;
  readonly proxyPort: number;
  /** A real MCP server that answers what nginx cannot (discovery). */
  readonly discovery: URL;
  /** Path segment → body of the `tools/call` answer; where it begins with `event:`, it is an event stream. */
  readonly answers: ReadonlyMap<string, string>;
  /** Another upstream, that the proxy has at `/slow`. */
  readonly slow: URL;
  /** Command prefix that pins the processes, such as `taskset -c 0`; empty: not pinned. */
  readonly upstreamPin: readonly string[];
  readonly proxyPin: readonly string[];
}

const base = (directory: string, name: string): string => `
daemon off;
${process.getuid?.() === 0 ? '# Else the workers would be nobody, who cannot read the directory.\nuser root;' : ''}
worker_processes 1;
pid ${join(directory, `${name}.pid`)};
error_log ${join(directory, `${name}.error.log`)} crit;
events { worker_connections 16384; }
`;

const http = (directory: string): string => `
  access_log off;
  default_type application/json;
  keepalive_requests 1000000000;
  client_body_buffer_size 64k;
  client_body_temp_path ${join(directory, 'body')};
  proxy_temp_path ${join(directory, 'proxy')};
  fastcgi_temp_path ${join(directory, 'fastcgi')};
  uwsgi_temp_path ${join(directory, 'uwsgi')};
  scgi_temp_path ${join(directory, 'scgi')};
`;

/** The upstream reads the request body before it answers, as a real server does. */
function upstreamConfiguration(options: NginxOptions): string {
  const locations = [...options.answers]
    .map(
      ([name, body]) => `
    location = /mcp/${name} {
      proxy_set_header Host 127.0.0.1;
      if ($http_mcp_method != "tools/call") { rewrite ^ /mcp break; proxy_pass http://discovery; }
      root ${options.directory};
      rewrite ^ /answer-${name}.json break;
      error_page 405 =200 $uri;
    }
    location = /answer-${name}.json {
      internal;
      root ${options.directory};
      ${body.startsWith('event:') ? 'types { } default_type text/event-stream;' : ''}
    }`,
    )
    .join('');
  return `${base(options.directory, 'upstream')}
http {${http(options.directory)}
  upstream discovery { server ${options.discovery.host}; }
  open_file_cache max=100;
  server {
    listen 127.0.0.1:${options.upstreamPort} backlog=4096;${locations}
  }
}`;
}

function proxyConfiguration(options: NginxOptions): string {
  return `${base(options.directory, 'proxy')}
http {${http(options.directory)}
  upstream upstream { server 127.0.0.1:${options.upstreamPort}; keepalive 256; keepalive_requests 1000000000; }
  upstream slow { server ${options.slow.host}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:${options.proxyPort} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location / { proxy_pass http://upstream; }
    location = /slow { proxy_pass http://slow/mcp; }
  }
}`;
}

async function run(pin: readonly string[], configuration: string): Promise<ChildProcess> {
  const [command, ...rest] = [...pin, 'nginx', '-c', configuration];
  const child = spawn(command, rest, { stdio: ['ignore', 'ignore', 'inherit'] });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
  return child;
}

export async function startNginx(options: NginxOptions): Promise<Nginx> {
  await mkdir(options.directory, { recursive: true });
  for (const [name, body] of options.answers) await writeFile(join(options.directory, `answer-${name}.json`), body);
  const upstreamFile = join(options.directory, 'upstream.conf');
  const proxyFile = join(options.directory, 'proxy.conf');
  await writeFile(upstreamFile, upstreamConfiguration(options));
  await writeFile(proxyFile, proxyConfiguration(options));
  const proxy = await run(options.proxyPin, proxyFile);
  const children = [await run(options.upstreamPin, upstreamFile), proxy];
  return {
    upstream: new URL(`http://127.0.0.1:${options.upstreamPort}/`),
    proxy: new URL(`http://127.0.0.1:${options.proxyPort}/`),
    proxyPid: proxy.pid ?? 0,
    stop: async () => {
      await Promise.all(
        children.map(
          (child) =>
            new Promise<void>((resolve) => {
              if (child.exitCode !== null) return resolve();
              child.once('exit', () => resolve());
              child.kill('SIGQUIT');
            }),
        ),
      );
    },
  };
}
