SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  // Neither a validator nor anything else outside of this service is asked.
  validatorUrl: null,
});
