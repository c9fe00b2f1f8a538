import { defineConfig } from 'vitest/config';

const conditions = ['@sallyport/source', 'module', 'node', 'development|production'];

export default defineConfig({
  resolve: {
    conditions,
    // One instance of graphql: type-graphql loads the CommonJS entry, so the sources load the same one.
    alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }],
  },
  ssr: { resolve: { conditions } },
  test: {
    include: ['*/src/**/*.test.ts', 'tests/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    environment: 'node',
    globalSetup: ['./tests/kit/postgres-setup.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    reporters: ['default', './tests/kit/reporter.ts'],
    coverage: { provider: 'v8', include: ['*/src/**'] },
  },
});
