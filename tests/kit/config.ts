/** What the environment decides for the tests. */
export const testConfig = {
  /** Continuous integration: a test that lacks a program of the operating system fails instead of being skipped. */
  strict: process.env['SALLYPORT_TESTS_STRICT'] === '1',
  path: process.env['PATH'] ?? '',
} as const;
