import { describe, expect, test } from 'vitest';
import { configHelp, parseConfig, redactedConfig } from './config.ts';

const least = {
  DATABASE_URL: 'postgres://sallyport:hunter2@localhost/sallyport',
  SALLYPORT_SECRET_KEY: 'a secret key of more than thirty-two characters',
};
const problemsOf = (env: Record<string, string>): readonly string[] => {
  const parsed = parseConfig(env);
  return parsed.ok ? [] : parsed.problems;
};

describe('the configuration', () => {
  test('all problems are told at once, without any value', () => {
    const problems = problemsOf({
      DATABASE_URL: 'mysql://hunter2@db',
      SALLYPORT_SECRET_KEY: 'hunter2',
      SALLYPORT_LISTEN_PORT: '70000',
      SALLYPORT_ROLES: 'api,queen',
      SALLYPORT_LISTEN_HOST: '0.0.0.0',
    });
    expect(problems).toHaveLength(5);
    expect(problems.join()).not.toContain('hunter2');
  });

  test('what is required and missing is named', () => {
    expect(problemsOf({})).toEqual(['DATABASE_URL: is required', 'SALLYPORT_SECRET_KEY: is required']);
  });

  test('any address but loopback needs TLS or a proxy that speaks it', () => {
    for (const host of ['0.0.0.0', '::', '10.0.0.1', 'example.org', '127.evil.example']) {
      expect(problemsOf({ ...least, SALLYPORT_LISTEN_HOST: host })).toHaveLength(1);
      expect(problemsOf({ ...least, SALLYPORT_LISTEN_HOST: host, SALLYPORT_TLS_TERMINATED_BY_PROXY: 'true' })).toEqual(
        [],
      );
    }
    for (const host of ['127.0.0.1', '::1', 'localhost']) {
      expect(problemsOf({ ...least, SALLYPORT_LISTEN_HOST: host })).toEqual([]);
    }
  });

  test('half a certificate is refused', () => {
    expect(problemsOf({ ...least, SALLYPORT_TLS_CERT_FILE: import.meta.filename })).toHaveLength(1);
  });

  test('what is logged holds no secret', () => {
    const parsed = parseConfig({ ...least, SALLYPORT_BOOTSTRAP_TOKEN: 'a bootstrap token with 32 characters' });
    if (!parsed.ok) throw new Error(parsed.problems.join());
    const text = JSON.stringify(redactedConfig(parsed.config));
    expect(text).not.toMatch(/hunter2|secret key|bootstrap token/);
  });

  test('the help names every variable', () => {
    const help = configHelp();
    for (const name of ['DATABASE_URL', 'REDIS_URL', 'SALLYPORT_SECRET_KEY', 'SALLYPORT_TLS_TERMINATED_BY_PROXY']) {
      expect(help).toContain(name);
    }
  });
});
