// validatorUrl: null, since the document is for no other host to see
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null, docExpansion: "list" });
